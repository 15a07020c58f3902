"""k-medoids by FasterPAM: every improving swap is taken at once.

Source: Schubert and Rousseeuw, "Fast and eager k-medoids clustering: O(k) runtime improvement of
the PAM, CLARA, and CLARANS algorithms", Information Systems 101, 2021, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.matrices import refuse_asymmetric
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Medoids:
    """The chosen images and who belongs to which.

    Args:
        indices: `[k]`, ascending.
        labels: `[N]`, position in `indices` of the nearest medoid; a medoid's own is its own.
        objective: Sum over images of the distance to their medoid.
        swaps: How many swaps were made from the random start that won.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int32]
    objective: float
    swaps: int


def k_medoids(
    distance: NDArray[np.floating], num_clusters: int, *, seed: int = 0, restarts: int = 1
) -> Medoids:
    """Return k medoids such that no swap with another image lowers the objective.

    Args:
        distance: `[N, N]`, symmetric, zero diagonal; the triangle inequality is not asked for.
        num_clusters: k, from 1 to N.
        seed: Of the random starts and of the order in which images are tried.
        restarts: The best of so many starts is returned.

    Raises:
        InputError: For k out of range, or a matrix that is not symmetric.
    """
    refuse_asymmetric(distance, "distance")
    side = len(distance)
    if not 1 <= num_clusters <= side:
        raise InputError(f"num_clusters: expected 1 to {side}, got {num_clusters}")
    if restarts < 1:
        raise InputError(f"restarts: expected at least 1, got {restarts}")
    rng = np.random.default_rng(seed)
    searches = (_search(distance, num_clusters, rng) for _ in range(restarts))
    best = min(searches, key=lambda search: search.objective)
    order = np.argsort(best.medoids)
    labels = np.argsort(order)[best.nearest]
    labels[best.medoids[order]] = np.arange(num_clusters)  # also where two medoids coincide
    return Medoids(best.medoids[order], labels.astype(np.int32), best.objective, best.swaps)


def _search(
    distance: NDArray[np.floating], num_clusters: int, rng: np.random.Generator
) -> _Assignment:
    state = _Assignment(distance, rng.choice(len(distance), num_clusters, replace=False))
    order = rng.permutation(len(distance))
    quiet = 0  # images tried since the last swap
    for candidate in _cycle(order):
        if quiet == len(order):
            break
        quiet = 0 if state.try_swap(candidate) else quiet + 1
    return state


def _cycle(order: NDArray[np.int64]):  # noqa: ANN202  # an endless iterator of int
    while True:
        yield from order.tolist()


class _Assignment:
    """Medoids with every image's nearest and second nearest, kept up to date over swaps."""

    def __init__(self, distance: NDArray[np.floating], medoids: NDArray[np.int64]) -> None:
        self.distance = distance
        self.medoids = medoids.copy()
        self.to_medoids = distance[medoids].astype(np.float64)  # [k, N]
        self.nearest = np.zeros(len(distance), np.int64)
        self.first = np.zeros(len(distance))  # distance to the nearest medoid
        self.second = np.zeros(len(distance))  # and to the second nearest
        self.farthest = float(distance.max())
        self.swaps = 0
        self._assign(np.arange(len(distance)))
        self._price()

    @property
    def objective(self) -> float:
        return float(self.first.sum())

    def try_swap(self, candidate: int) -> bool:
        """Swap the candidate with the medoid that gains most, if any gains."""
        if self.is_medoid[candidate]:
            return False
        new = self.distance[candidate].astype(np.float64)
        shared = np.minimum(new - self.first, 0).sum()
        # An image whose own medoid goes has the candidate or its second choice left.
        left = np.minimum(np.maximum(new, self.first), self.second) - self.second
        change = self.removal + np.bincount(self.nearest, left, len(self.medoids)) + shared
        goes = int(change.argmin())
        # Below rounding, two swaps could undo each other for ever.
        if not change[goes] < -1e-12 * self.total:
            return False
        self._swap(goes, candidate, new)
        return True

    def _swap(self, goes: int, candidate: int, new: NDArray[np.float64]) -> None:
        old = self.to_medoids[goes]
        touched = (old <= self.second) | (new < self.second)
        self.medoids[goes], self.to_medoids[goes] = candidate, new
        self._assign(np.flatnonzero(touched))
        self._price()
        self.swaps += 1

    def _assign(self, images: NDArray[np.int64]) -> None:
        choices = self.to_medoids[:, images]
        nearest = choices.argmin(0)
        self.nearest[images] = nearest
        columns = np.arange(len(images))
        self.first[images] = choices[nearest, columns]
        if len(choices) == 1:
            self.second[images] = self.farthest  # any bound: it cancels in every swap
            return
        choices[nearest, columns] = np.inf
        self.second[images] = choices.min(0)

    def _price(self) -> None:
        """Compute what each medoid's removal costs, without replacement."""
        self.total = self.objective
        self.is_medoid = np.zeros(len(self.first), bool)
        self.is_medoid[self.medoids] = True
        self.removal = np.bincount(self.nearest, self.second - self.first, len(self.medoids))
