"""A few images that stand for all: chosen greedily, with how much they cover after each choice."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.matrices import refuse_asymmetric, row_blocks
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Subset:
    """Images in the order of choice, and two curves over their number.

    Args:
        images: `[k]`.
        covered: `[k]`, 1 - (sum of distances to the nearest chosen) / (sum of distances to the
            farthest image), 0..1; 1 when all are chosen.
        radius: `[k]`, the largest distance of any image to its nearest chosen one.
    """

    images: NDArray[np.int64]
    covered: NDArray[np.float64]
    radius: NDArray[np.float64]


def greedy_k_center(distance: NDArray[np.floating], count: int) -> Subset:
    """Return images of which each is the farthest from those before: no image is left far out.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theor. Comput.
    Sci. 38, 1985. The first is the image with the least summed distance. The bound of twice the
    best radius needs the triangle inequality, which a loss distance lacks.

    Args:
        distance: `[N, N]`, symmetric, zero diagonal.
        count: From 1 to N.
    """
    _check(distance, count)
    sums, largest = _sums_and_largest(distance)
    chosen = [int(sums.argmin())]
    nearest = distance[chosen[0]].astype(np.float64)
    curve = [(nearest.sum(), nearest.max())]
    free = np.ones(len(distance), bool)
    free[chosen[0]] = False
    while len(chosen) < count:
        image = int(np.where(free, nearest, -1).argmax())
        np.minimum(nearest, distance[image], out=nearest)
        free[image] = False
        chosen.append(image)
        curve.append((nearest.sum(), nearest.max()))
    return _subset(chosen, curve, float(largest.sum()))


def greedy_facility_location(distance: NDArray[np.floating], count: int) -> Subset:
    """Return images of which each covers most of what is not covered yet: the typical ones first.

    Greedy on a submodular function reaches at least 1 - 1/e of the best `covered` (Nemhauser,
    Wolsey and Fisher, Math. Programming 14, 1978), without the triangle inequality. Gains are
    evaluated lazily (Minoux, Optimization Techniques, 1978).

    Args:
        distance: `[N, N]`, symmetric, zero diagonal.
        count: From 1 to N.
    """
    _check(distance, count)
    sums, nearest = _sums_and_largest(distance)
    bound = float(nearest.sum())
    # A gain can only shrink as images are chosen: an old one bounds the new one.
    queue = [(total - bound, image) for image, total in enumerate(sums.tolist())]
    heapq.heapify(queue)
    chosen: list[int] = []
    curve = []
    while len(chosen) < count:
        _, image = heapq.heappop(queue)
        after = np.minimum(nearest, distance[image])
        loss = float((after - nearest).sum())
        if queue and (loss, image) > queue[0]:
            heapq.heappush(queue, (loss, image))
            continue
        nearest = after
        chosen.append(image)
        curve.append((nearest.sum(), nearest.max()))
    return _subset(chosen, curve, bound)


def _check(distance: NDArray[np.floating], count: int) -> None:
    refuse_asymmetric(distance, "distance")
    if not 1 <= count <= len(distance):
        raise InputError(f"subset: expected 1 to {len(distance)} images, got {count}")


def _sums_and_largest(
    distance: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the largest value of each row."""
    sums, largest = np.empty(len(distance)), np.empty(len(distance))
    for first, last in row_blocks(*distance.shape):
        sums[first:last] = distance[first:last].sum(1, dtype=np.float64)
        largest[first:last] = distance[first:last].max(1)
    return sums, largest


def _subset(chosen: list[int], curve: list[tuple[float, float]], bound: float) -> Subset:
    left, radius = np.array(curve, np.float64).T
    covered = 1 - left / bound if bound > 0 else np.ones(len(left))
    return Subset(np.array(chosen), covered, radius)
