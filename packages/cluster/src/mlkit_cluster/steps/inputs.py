"""What an analysis looks at: the loss distance, made symmetric, or an encoder's embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_cluster.analysis.combine import Symmetry, UnknownPolicy, symmetrise, total_distance
from mlkit_cluster.analysis.graphs import NeighborGraph, neighbor_graph
from mlkit_cluster.store import reading
from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.entries import matrix_ids
from mlkit_cluster.store.materialise import total_of
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_cluster.store.database import RunStore

LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class View:
    """How images are compared; all of it is noted with every result.

    Args:
        source: "loss", or the name of an encoder whose embeddings are compared.
        weights: Of the components: "gains" (the detector's), "robust" (each divided by its median),
            or a mapping.
        symmetry: "mean", "max", "min" or "debiased".
        unknown: What stands for a loss against an image without targets: "max", or "drop" to
            leave such images out.
    """

    source: str = LOSS
    weights: str | Mapping[str, float] = "gains"
    symmetry: Symmetry = "mean"
    unknown: UnknownPolicy = "max"

    @property
    def said(self) -> dict[str, object]:
        """JSON values that name this view."""
        if self.source != LOSS:
            return {"source": self.source}
        weights = self.weights if isinstance(self.weights, str) else dict(self.weights)
        return {
            "source": LOSS,
            "weights": weights,
            "symmetry": self.symmetry,
            "unknown": self.unknown,
        }


@dataclass(frozen=True)
class Seen:
    """Images and what compares them; either embeddings or distances.

    Args:
        img_ids: `[n]`.
        embeddings: `[n, D]`, or None.
        distance: `[n, n]` symmetric, a graph in mode "knn", or None.
    """

    img_ids: np.ndarray
    embeddings: np.ndarray | None = None
    distance: np.ndarray | NeighborGraph | None = None

    @property
    def input(self) -> dict[str, np.ndarray | NeighborGraph]:
        """The one of both that is there, as the analysis' keyword."""
        if self.embeddings is not None:
            return {"embeddings": self.embeddings}
        assert self.distance is not None  # one of both is there
        return {"distance": self.distance}


def see(run: RunStore, view: View) -> Seen:
    """Return what a view compares.

    Raises:
        InputError: The encoder has no rows, or the weights name no component.
        MlkitError: Distances are not computed.
    """
    if view.source != LOSS:
        return Seen(*reading.embedding_matrix(run, view.source))
    ids = np.asarray(matrix_ids(run), np.int64)
    if layout(run).kind == "edges":
        return Seen(ids, distance=_graph(run, view, len(ids)))
    total, kept = total_losses(run, view)
    return Seen(ids[kept], distance=symmetrise(total, view.symmetry, overwrite=True))


def total_losses(run: RunStore, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted sum of the components `[n, n]`, not symmetric, and the kept places."""
    components = {name: run.open_matrix(name).array() for name in layout(run).names}
    return total_distance(components, weights_of(run, view), view.unknown)


def weights_of(run: RunStore, view: View) -> Mapping[str, float] | Literal["robust"]:
    """Return the components' weights of a view.

    Raises:
        InputError: They are neither a mapping, nor "gains" or "robust".
    """
    if not isinstance(view.weights, str):
        return view.weights
    if view.weights == "gains":
        return run.gains()
    if view.weights == "robust":
        return "robust"
    raise InputError(f"weights: expected gains, robust or name=number, got {view.weights!r}")


def parse_weights(text: str) -> str | dict[str, float]:
    """Return "gains", "robust", or a mapping of `box=1,cls=0.5`.

    Raises:
        InputError: The text is none of them.
    """
    if text in ("gains", "robust"):
        return text
    try:
        return {
            name.strip(): float(number)
            for name, _, number in (part.partition("=") for part in text.split(","))
        }
    except ValueError as err:
        raise InputError(
            f"--weights: expected gains, robust or box=1,cls=0.5,…, got {text!r}"
        ) from err


def _graph(run: RunStore, view: View, count: int) -> NeighborGraph:
    if view.weights == "robust":
        raise InputError(
            "--weights robust: needs all pairs, and this run holds edges only",
            hint="give numbers, as --weights box=1,cls=0.5,dfl=0.2",
        )
    edges = run.open_edges()
    columns, values = edges.rows(0, len(edges))
    weights = weights_of(run, view)
    assert not isinstance(weights, str)  # refused above
    total = total_of(values, weights)
    known = (columns >= 0) & np.isfinite(total)
    images = np.broadcast_to(np.arange(count)[:, None], columns.shape)
    return neighbor_graph(images[known], columns[known], total[known], count)
