"""How tight clusters are by the distance itself: silhouettes, medoids, within and between.

All three come from one pass over the matrix. Label -1 is noise and takes no part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.matrices import refuse_asymmetric, row_blocks
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE = -1


def cluster_sums(
    distance: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each image's summed distance to each cluster `[N, C]`, labels `[C]`, sizes `[C]`.

    Labels ascend and leave out noise; an image's distance to itself counts as it stands.
    """
    if labels.shape != (len(distance),):
        raise InputError(f"labels: expected [{len(distance)}], got {list(labels.shape)}")
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != NOISE]
    names, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    sums = np.zeros((len(distance), len(names)))
    if not len(names):
        return sums, names.astype(np.int64), sizes
    for first, last in row_blocks(*distance.shape):
        block = np.asarray(distance[first:last])[:, order]
        sums[first:last] = np.add.reduceat(block, starts, axis=1, dtype=np.float64)
    return sums, names.astype(np.int64), sizes


def silhouettes(distance: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the silhouette of each image, -1..1; NaN for noise and with fewer than two clusters.

    Source: Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20, 1987. An image alone has 0.
    """
    return _silhouettes(*cluster_sums(distance, labels), labels)


def cluster_medoids(distance: NDArray[np.floating], labels: NDArray[np.integer]) -> dict[int, int]:
    """Return label to the image with the least summed distance to its cluster (ties: the first)."""
    sums, names, _ = cluster_sums(distance, labels)
    return _medoids(sums, names, labels)


def structure(
    distance: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float32], dict[int, int]]:
    """Return silhouettes and medoids from one pass over the matrix."""
    sums, names, sizes = cluster_sums(distance, labels)
    return _silhouettes(sums, names, sizes, labels), _medoids(sums, names, labels)


def internal_scores(
    distance: NDArray[np.floating], labels: NDArray[np.integer]
) -> dict[str, object]:
    """Return how well labels fit a symmetric distance, over images that are not noise.

    `silhouette` is the mean; `within` and `between` are mean distances over pairs of images of one
    cluster and of two; `within_between_ratio` is below 1 where clusters are tighter than chance.
    What does not exist (one cluster, all noise) is NaN. `clusters` has one row per cluster, with
    `mean_to_medoid` without the medoid itself, NaN for one image.

    Raises:
        InputError: For a matrix that is not symmetric.
    """
    refuse_asymmetric(distance, "distance")
    sums, names, sizes = cluster_sums(distance, labels)
    values = _silhouettes(sums, names, sizes, labels).astype(np.float64)
    clustered = labels != NOISE
    total, count = float(sums[clustered].sum()), int(clustered.sum())
    rows = _cluster_rows(distance, labels, sums, values)
    pairs = int((sizes * (sizes - 1)).sum())
    own = float(sum(sums[labels == name, place].sum() for place, name in enumerate(names)))
    within, between = _mean(own, pairs), _mean(total - own, count * (count - 1) - pairs)
    return {
        "num_clusters": len(names),
        "noise": len(labels) - count,
        "silhouette": float(values[clustered].mean()) if len(names) > 1 else math.nan,
        "within": within,
        "between": between,
        "within_between_ratio": _mean(within, between),
        "clusters": rows,
    }


def _cluster_rows(
    distance: NDArray[np.floating],
    labels: NDArray[np.integer],
    sums: NDArray[np.float64],
    values: NDArray[np.float64],
) -> list[dict[str, int | float]]:
    rows: list[dict[str, int | float]] = []
    for place, name in enumerate(np.unique(labels[labels != NOISE]).tolist()):
        found = np.flatnonzero(labels == name)
        size, medoid = len(found), int(found[sums[found, place].argmin()])
        row = {"label": name, "size": size, "medoid": medoid}
        row |= {
            "mean_to_medoid": _mean(float(distance[medoid, found].sum()), size - 1),
            "mean_within": _mean(float(sums[found, place].sum()), size * (size - 1)),
            "silhouette": float(values[found].mean()),
        }
        rows.append(row)
    return rows


def _silhouettes(
    sums: NDArray[np.float64],
    names: NDArray[np.int64],
    sizes: NDArray[np.int64],
    labels: NDArray[np.integer],
) -> NDArray[np.float32]:
    values = np.full(len(labels), np.nan, np.float32)
    clustered = np.flatnonzero(labels != NOISE)
    if len(names) < 2:
        return values
    place = np.searchsorted(names, labels[clustered])
    rows = np.arange(len(clustered))
    means = sums[clustered] / sizes
    # The image itself adds 0 to its cluster's sum and is not counted.
    inside = sums[clustered, place] / np.maximum(sizes[place] - 1, 1)
    means[rows, place] = np.inf
    outside = means.min(1)
    larger = np.maximum(inside, outside)
    alone = (sizes[place] == 1) | (larger == 0)
    values[clustered] = np.where(alone, 0, (outside - inside) / np.where(alone, 1, larger))
    return values


def _medoids(
    sums: NDArray[np.float64], names: NDArray[np.int64], labels: NDArray[np.integer]
) -> dict[int, int]:
    members = {int(name): np.flatnonzero(labels == name) for name in names}
    return {
        name: int(rows[sums[rows, place].argmin()])
        for place, (name, rows) in enumerate(members.items())
    }


def _mean(total: float, count: float) -> float:
    return float(total / count) if count > 0 else math.nan
