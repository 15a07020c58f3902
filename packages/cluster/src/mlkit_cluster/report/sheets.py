"""What each cluster is like: its middle, its members, what its losses are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from mlkit_cluster.report.pairs import Pairs
    from mlkit_cluster.report.source import Clustering, RunData

    Floats = npt.NDArray[np.float32]

_SPREAD = 256  # members among which the middle is sought


@dataclass(frozen=True)
class Sheet:
    """What a cluster is like.

    Args:
        label: Its number, -1 for noise.
        size: Images in it.
        medoid: Position of the image in its middle.
        members: Positions of those nearest to the medoid, without it.
        profile: Component to the median of the images' own losses; NaN where unknown.
        within: Component to the median loss between members of the cluster, where known.
    """

    label: int
    size: int
    medoid: int
    members: tuple[int, ...]
    profile: Mapping[str, float]
    within: Mapping[str, float]


def sheets(
    run: RunData, pairs: Pairs, embeddings: Floats, clustering: Clustering, members: int = 11
) -> list[Sheet]:
    """Return one sheet for each cluster, the largest first, noise last.

    The medoid is the stored one; where none is stored, that of at most 256 evenly spread members.
    """
    labels, sizes = np.unique(clustering.labels[clustering.labels >= -1], return_counts=True)
    order = np.lexsort([labels, -sizes, labels == -1])
    made: list[Sheet] = []
    for label in labels[order].tolist():
        inside = np.flatnonzero(clustering.labels == label)
        stored = inside[clustering.medoids[inside]]
        spread = inside[:: max(1, len(inside) // _SPREAD)]
        some = np.union1d(spread, stored[:1])
        values = pairs.submatrix(some) if pairs.is_full else None
        apart = _apart(run, pairs, embeddings[some], values)
        middle = (
            int(np.searchsorted(some, stored[0])) if len(stored) else int(apart.sum(1).argmin())
        )
        order_inside = some[np.argsort(apart[middle], kind="stable")]
        medoid = int(some[middle])
        others = tuple(int(p) for p in order_inside if p != medoid)[:members]
        profile = {name: _median(run.columns[f"{name}_loss"][inside]) for name in run.gains}
        within = _within(pairs, values)
        made.append(Sheet(label, len(inside), medoid, others, profile, within))
    return made


def _apart(run: RunData, pairs: Pairs, own: Floats, values: Floats | None) -> Floats:
    """Return symmetric distances of some members `[M, M]`: by loss, else by embedding."""
    if values is not None:
        total = pairs.total(values, run.gains)
        total = np.nan_to_num(total, nan=float(np.nan_to_num(total).max(initial=0)))
        return total + total.T
    own = np.nan_to_num(own)
    square = (own * own).sum(1)
    return np.maximum(square[:, None] + square - 2 * own @ own.T, 0)


def _within(pairs: Pairs, values: Floats | None) -> dict[str, float]:
    """Return component to the median loss between different members."""
    if values is None:
        return {}
    apart_only = ~np.eye(len(values), dtype=bool)
    return {name: _median(values[apart_only, c]) for c, name in enumerate(pairs.components)}


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")
