"""What stands for a cluster, what its loss is made of, and which images are hardest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.internal import cluster_medoids
from mlkit_cluster.analysis.matrices import refuse_asymmetric, row_blocks
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sheet:
    """One cluster at a glance.

    Args:
        label: Of the cluster.
        medoid: Image with the least summed distance to the others.
        members: `[size]`, nearest to the medoid first, itself at the front.
        distances: `[size]`, of the members to the medoid.
        profile: Component to its share, 0..1, of the weighted loss between members; NaN where no
            pair of members has a known loss.
    """

    label: int
    medoid: int
    members: NDArray[np.int64]
    distances: NDArray[np.float32]
    profile: dict[str, float]

    @property
    def size(self) -> int:
        """Number of images in the cluster."""
        return len(self.members)


@dataclass(frozen=True)
class HardImage:
    """An image and its loss against its own labels."""

    image: int
    loss: float


def medoid_sheets(
    labels: NDArray[np.integer],
    distance: NDArray[np.floating],
    components: Mapping[str, NDArray[np.floating]],
    weights: Mapping[str, float],
) -> list[Sheet]:
    """Return a sheet for each cluster, the largest first; noise has none.

    Args:
        labels: `[N]`, -1 for noise.
        distance: `[N, N]`, symmetric, zero diagonal.
        components: Name to the losses `[N, N]` before weighting, asymmetric; NaN is unknown and
            adds nothing.
        weights: Of each component, as in the total (`component_factors`).

    Raises:
        InputError: For shapes that differ, or a component without weight.
    """
    refuse_asymmetric(distance, "distance")
    for name, matrix in components.items():
        if matrix.shape != distance.shape:
            expected, got = list(distance.shape), list(matrix.shape)
            raise InputError(f"component {name}: expected {expected}, got {got}")
        if name not in weights:
            raise InputError(f"weights: no weight for {name}")
    sheets = []
    for label, medoid in cluster_medoids(distance, labels).items():
        members = np.flatnonzero(labels == label)
        lengths = distance[medoid, members]
        # The medoid first, also before others at distance 0.
        order = np.lexsort((members != medoid, lengths))
        profile = _profile(members, components, weights)
        near = lengths[order].astype(np.float32)
        sheets.append(Sheet(label, medoid, members[order], near, profile))
    return sorted(sheets, key=lambda sheet: (-sheet.size, sheet.label))


def _profile(
    members: NDArray[np.int64],
    components: Mapping[str, NDArray[np.floating]],
    weights: Mapping[str, float],
) -> dict[str, float]:
    sums = {name: weights[name] * _pair_sum(matrix, members) for name, matrix in components.items()}
    total = sum(sums.values())
    return {name: value / total if total > 0 else float("nan") for name, value in sums.items()}


def _pair_sum(matrix: NDArray[np.floating], members: NDArray[np.int64]) -> float:
    """Return the sum of known losses between different members, in both directions."""
    total = 0.0
    for first, last in row_blocks(len(members), matrix.shape[1]):
        rows = members[first:last]
        block = np.asarray(matrix[rows])[:, members].astype(np.float64)
        block[np.arange(last - first), np.arange(first, last)] = 0
        total += float(block.sum(where=np.isfinite(block)))
    return total


def hardest(
    losses: Mapping[str, NDArray[np.floating]], gains: Mapping[str, float], *, top: int = 100
) -> dict[str, list[HardImage]]:
    """Return the images of highest loss, by component and under "total", the hardest first.

    Args:
        losses: Component to `[N]`, of each image against its own labels; NaN where unknown. An
            image without objects has cls alone: in the total its other components add 0.
        gains: What each component is multiplied by in the total.
        top: How many of each at most.

    Raises:
        InputError: For lengths that differ, a component without gain, or one named "total".
    """
    if not losses or "total" in losses or len({len(values) for values in losses.values()}) != 1:
        got = {name: len(values) for name, values in losses.items()}
        raise InputError(f"losses: expected components of one length, none named total, got {got}")
    missing = [name for name in losses if name not in gains]
    if missing:
        raise InputError(f"gains: no gain for {', '.join(missing)}")
    weighted = np.stack([gains[name] * losses[name].astype(np.float64) for name in losses])
    known = ~np.isnan(weighted)
    total = np.where(known.any(0), np.where(known, weighted, 0).sum(0), np.nan)
    return {name: _highest(values, top) for name, values in (*losses.items(), ("total", total))}


def _highest(values: NDArray[np.floating], top: int) -> list[HardImage]:
    order = np.argsort(-values, kind="stable")  # NaN last
    order = order[~np.isnan(values[order])][:top]
    return [HardImage(int(image), float(values[image])) for image in order]
