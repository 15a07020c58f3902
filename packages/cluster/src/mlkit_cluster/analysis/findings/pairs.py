"""Pairs of images on which the detector's loss says something that the eye would not expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.matrices import embedding_rows, row_blocks, side_of, unit_rows
from mlkit_cluster.analysis.neighbors import nearest_in_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Contradiction:
    """Two images that are near by one measure and far by the other.

    Args:
        image: Whose row of both measures is read.
        other: The other image.
        score: The far measure's rank minus the near measure's, -1..1.
        embedding_rank: Share of the image's others that are nearer by embedding, 0..1.
        loss_rank: Share of the image's others that are nearer by loss, 0..1.
        cosine_distance: 1 - cosine of the embeddings, 0..2.
        loss: D[image, other].
    """

    image: int
    other: int
    score: float
    embedding_rank: float
    loss_rank: float
    cosine_distance: float
    loss: float


@dataclass(frozen=True)
class AsymmetricPair:
    """Two images that explain each other unequally.

    Args:
        image: The image with the larger loss against the other's predictions.
        other: The other image.
        score: (loss - loss_back) / (loss + loss_back), 0..1.
        loss: D[image, other].
        loss_back: D[other, image].
    """

    image: int
    other: int
    score: float
    loss: float
    loss_back: float


@dataclass(frozen=True)
class Asymmetry:
    """How unequal the two directions are.

    Args:
        means: `[N]`, mean over the others of (D_ij - D_ji) / (D_ij + D_ji), -1..1: above 0 where
            others' outputs explain the image's predictions better than its output explains theirs.
            NaN where no pair is known in both directions.
        pairs: The most unequal pairs, most unequal first.
    """

    means: NDArray[np.float32]
    pairs: list[AsymmetricPair]


def contradictions(
    embeddings: NDArray[np.floating],
    distance: NDArray[np.floating],
    *,
    top: int = 200,
    near: int = 50,
    loss_is_near: bool = False,
) -> list[Contradiction]:
    """Return pairs near by embedding and far by loss, the largest gap of ranks first.

    Such a pair looks alike to the encoder while the detector sees different things in it. Ranks
    are within the row of one image, so that hard images do not fill the list; a pair is listed
    once, with its larger score. Only each image's `near` nearest are looked at: a pair beyond
    them is not near.

    Args:
        embeddings: `[N, D]`, of any encoder.
        distance: `[N, N]`, as it is, asymmetric; NaN is unknown.
        top: How many at most.
        near: How many neighbours of an image count as near.
        loss_is_near: Ask the reverse: near by loss and far by embedding.

    Raises:
        InputError: For sizes that differ, or fewer than 3 images.
    """
    side = side_of(distance, "distance")
    if embedding_rows(embeddings) != side:
        raise InputError(f"embeddings: expected {side} rows, got {len(embeddings)}")
    if side < 3:
        raise InputError(f"contradictions: needs at least 3 images, got {side}")
    points = unit_rows(embeddings)
    found = []
    for first, last in row_blocks(side, side):
        apart = np.maximum(1 - points[first:last] @ points.T, 0)
        loss = np.array(distance[first:last], np.float32)
        images = np.arange(first, last)
        for block in (apart, loss):
            block[images - first, images] = np.nan
        found.append(_gaps(apart, loss, images, min(near, side - 1), loss_is_near=loss_is_near))
    table = np.concatenate(found)
    return [
        Contradiction(int(image), int(other), *map(float, values))
        for image, other, *values in _best_pairs(table, top)
    ]


def _gaps(
    apart: NDArray[np.float32],
    loss: NDArray[np.float32],
    images: NDArray[np.int64],
    near: int,
    *,
    loss_is_near: bool,
) -> NDArray[np.float64]:
    """Return image, other, score, both ranks and both values of near pairs `[P, 7]`."""
    close, far = (loss, apart) if loss_is_near else (apart, loss)
    others, _ = nearest_in_rows(close, near)
    rows, places = np.nonzero(others >= 0)
    others = others[rows, places]
    close_rank, far_rank = (_ranks(block, rows, others) for block in (close, far))
    ranks = (far_rank, close_rank) if loss_is_near else (close_rank, far_rank)
    score = far_rank - close_rank
    columns = (images[rows], others, score, *ranks, apart[rows, others], loss[rows, others])
    table = np.stack(columns, axis=1).astype(np.float64)
    return table[~np.isnan(score)]


def _ranks(
    block: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of the row's other known values that are smaller, NaN where unknown."""
    ordered = np.sort(block, axis=1)  # NaN last
    known = np.count_nonzero(~np.isnan(block), axis=1)
    values = block[rows, columns]
    below = np.empty(len(rows), np.int64)
    starts = np.searchsorted(rows, np.arange(len(block) + 1))
    for row in range(len(block)):
        span = slice(starts[row], starts[row + 1])
        below[span] = np.searchsorted(ordered[row], values[span])
    return np.where(np.isnan(values), np.nan, below / np.maximum(known[rows] - 1, 1))


def _best_pairs(table: NDArray[np.float64], top: int) -> list[list[float]]:
    """Return the rows of highest score, of each unordered pair the better one."""
    table = table[np.lexsort((table[:, 1], table[:, 0], -table[:, 2]))]
    low, high = np.minimum(table[:, 0], table[:, 1]), np.maximum(table[:, 0], table[:, 1])
    first = np.unique(np.stack([low, high], axis=1), axis=0, return_index=True)[1]
    return table[np.sort(first)[:top]].tolist()


def asymmetry(distance: NDArray[np.floating], *, top: int = 100) -> Asymmetry:
    """Return the mean asymmetry of each image, and the most unequal pairs.

    Args:
        distance: `[N, N]`, at least 0; NaN is unknown. The diagonal is not read.
        top: How many pairs at most.

    Raises:
        InputError: For negative losses.
    """
    side = side_of(distance, "distance")
    means = np.full(side, np.nan, np.float32)
    best = np.empty((0, 3))
    for first, last in row_blocks(side, side):
        map_rows = asymmetry_rows(distance, first, last)
        known = ~np.isnan(map_rows)
        counts = known.sum(1)
        sums = np.where(known, map_rows, 0).sum(1, dtype=np.float64)
        means[first:last] = np.where(counts, sums / np.maximum(counts, 1), np.nan)
        best = _most_unequal(best, map_rows, first, top)
    return Asymmetry(means, [_pair(distance, int(i), int(j)) for i, j, _ in best])


def asymmetry_rows(distance: NDArray[np.floating], first: int, last: int) -> NDArray[np.float32]:
    """Return rows of (D_ij - D_ji) / (D_ij + D_ji): 0 where both are 0, NaN on the diagonal."""
    forth = np.array(distance[first:last], np.float32)
    back = np.asarray(distance[:, first:last], np.float32).T
    if np.nanmin(forth, initial=0) < 0:
        raise InputError(f"distance: negative loss in rows {first} to {last - 1}")
    total = forth + back
    total[total == 0] = 1
    result = ((forth - back) / total).astype(np.float32, copy=False)
    result[np.arange(last - first), np.arange(first, last)] = np.nan
    return result


def _most_unequal(
    best: NDArray[np.float64], map_rows: NDArray[np.float32], first: int, top: int
) -> NDArray[np.float64]:
    """Return the `top` rows (image, other, score) of what was found and a block of the map."""
    scores = map_rows[map_rows > 0]
    if scores.size > top > 0:
        scores = np.partition(scores, -top)[-top:]
    bound = scores.min(initial=np.inf) if top > 0 else np.inf
    rows, columns = np.nonzero(map_rows >= bound)
    new = np.stack([rows + first, columns, map_rows[rows, columns]], axis=1)
    table = np.concatenate([best, new])
    return table[np.lexsort((table[:, 1], table[:, 0], -table[:, 2]))][:top].astype(np.float64)


def _pair(distance: NDArray[np.floating], image: int, other: int) -> AsymmetricPair:
    loss, back = float(distance[image, other]), float(distance[other, image])
    return AsymmetricPair(image, other, (loss - back) / (loss + back), loss, back)
