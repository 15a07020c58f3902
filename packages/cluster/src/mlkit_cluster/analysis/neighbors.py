"""Nearest neighbours: exact from rows of the matrix, candidates from embeddings, and their recall.

Beyond some 20,000 images the loss is computed only between candidates; `recall_at` says, on rows
that were computed whole, how many true neighbours the candidates hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from mlkit_cluster.analysis.matrices import embedding_rows, row_blocks, unit_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANY_IMAGES = 20_000  # beyond so many, all pairs are no longer the default
NUM_CANDIDATES = 200  # K': neighbours by embedding for which the loss is computed


@dataclass(frozen=True)
class Candidates:
    """For each image the others worth comparing, ascending, without itself.

    Args:
        starts: `[N + 1]`; image i owns `columns[starts[i]:starts[i + 1]]`.
        columns: `[E]`.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, image: int) -> NDArray[np.int32]:
        """Return the columns of one image."""
        return self.columns[self.starts[image] : self.starts[image + 1]]


def nearest_in_rows(
    rows: NDArray[np.floating], count: int, images: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the smallest values of each row in ascending order, exactly (ties: lowest column).

    Args:
        rows: `[R, N]`, a block of the matrix; NaN is never a neighbour.
        count: How many, at most N (N - 1 with `images`).
        images: `[R]`, the column of each row's own image, which is left out.

    Returns:
        Columns `[R, count]` and values; -1 and NaN where a row has fewer known values.

    Raises:
        InputError: For a count that the rows do not hold.
    """
    most = rows.shape[1] - (images is not None)
    if not 0 <= count <= most:
        raise InputError(f"neighbours: expected 0 to {most}, got {count}")
    index = np.full((len(rows), count), -1, np.int64)
    values = np.full((len(rows), count), np.nan, np.float32)
    for first, last in row_blocks(*rows.shape) if count else ():
        block = np.array(rows[first:last], np.float32)
        block[~np.isfinite(block)] = np.nan
        if images is not None:
            block[np.arange(last - first), images[first:last]] = np.nan
        index[first:last], values[first:last] = _smallest(block, count)
    return index, values


def _smallest(
    block: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    bound = np.partition(block, count - 1, axis=1)[:, count - 1 : count]  # NaN sorts last
    known = ~np.isnan(block)
    below, at = known & ~(block >= bound), known & (block == bound)
    # Of the values equal to the bound, the lowest columns fill what is left.
    room = count - below.sum(1, keepdims=True)
    chosen = below | (at & (at.cumsum(1, dtype=np.int32) <= room))
    row, column = np.nonzero(chosen)
    order = np.lexsort((column, block[row, column], row))
    row, column = row[order], column[order]
    sizes = np.bincount(row, minlength=len(block))
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    index = np.full((len(block), count), -1, np.int64)
    values = np.full((len(block), count), np.nan, np.float32)
    index[row, place], values[row, place] = column, block[row, column]
    return index, values


def embedding_neighbors(
    embeddings: NDArray[np.floating], count: int, metric: str = "cosine"
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each image's nearest others by embedding, `[N, min(count, N - 1)]`, nearest first.

    Args:
        embeddings: `[N, D]`, finite.
        count: How many.
        metric: "cosine" (1 - cosine, 0..2) or "euclidean".

    Raises:
        InputError: For another metric, or embeddings that are not finite.
    """
    side = embedding_rows(embeddings)
    if metric not in ("cosine", "euclidean"):
        raise InputError(f"metric: expected 'cosine' or 'euclidean', got {metric!r}")
    count = min(count, side - 1)
    index = np.empty((side, max(count, 0)), np.int32)
    lengths = np.empty(index.shape, np.float32)
    if count < 1:
        return index, lengths
    points = np.ascontiguousarray(unit_rows(embeddings) if metric == "cosine" else embeddings)
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(points)
    for first, last in row_blocks(side, side):
        found, near = _found(search, points, first, last)
        index[first:last] = found
        lengths[first:last] = near**2 / 2 if metric == "cosine" else near
    return index, lengths


def _found(
    search: NearestNeighbors, points: NDArray[np.floating], first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the neighbours of a block of images without themselves."""
    near, found = search.kneighbors(points[first:last])
    own = found == np.arange(first, last)[:, None]
    # Among many duplicates an image may miss itself: then the farthest goes.
    own[~own.any(1), -1] = True
    shape = (last - first, found.shape[1] - 1)
    return found[~own].reshape(shape), near[~own].reshape(shape)


def candidates(
    embeddings: NDArray[np.floating], count: int = NUM_CANDIDATES, metric: str = "cosine"
) -> Candidates:
    """Return who is compared with whom: near by embedding in either direction.

    If j is among i's nearest, then j is a candidate of i and i of j, so that a pair's loss is
    known in both directions or in neither. Memory is that of the result, about 2 N count indices.
    """
    index, _ = embedding_neighbors(embeddings, count, metric)
    side, width = index.shape
    starts = np.arange(side + 1) * width
    graph = csr_matrix((np.ones(index.size, np.int8), index.ravel(), starts), shape=(side, side))
    either = csr_matrix(graph.maximum(graph.T))
    either.sort_indices()
    return Candidates(either.indptr.astype(np.int64), either.indices.astype(np.int32))


def recalls(
    found: Candidates, images: NDArray[np.integer], rows: NDArray[np.floating], k: int = 10
) -> NDArray[np.float64]:
    """Return for each image the share of its k true neighbours that are candidates, 0..1.

    Args:
        found: The candidate sets of all N images.
        images: `[R]`, whose rows are known whole.
        rows: `[R, N]` of losses; unknown values are never neighbours.
        k: How many true neighbours, at most N - 1; an image with fewer known values has fewer.

    Raises:
        InputError: For shapes that do not fit, or a row without known value.
    """
    if rows.shape != (len(images), len(found)) or not len(images):
        raise InputError(
            f"rows: expected [{len(images)}, {len(found)}] with a row, got {list(rows.shape)}"
        )
    true, _ = nearest_in_rows(rows, min(k, len(found) - 1), np.asarray(images))
    shares = np.empty(len(images))
    for place, (image, near) in enumerate(zip(images, true, strict=True)):
        near = near[near >= 0]
        if not len(near):
            raise InputError(f"rows: image {image} has no known loss against another")
        shares[place] = np.isin(near, found.of(int(image))).mean()
    return shares


def recall_at(
    found: Candidates, images: NDArray[np.integer], rows: NDArray[np.floating], k: int = 10
) -> float:
    """Return the mean of `recalls`: recall@k of the candidates against exact rows, 0..1."""
    return float(recalls(found, images, rows, k).mean())


def rows_to_check(num_images: int, count: int = 200, seed: int = 0) -> NDArray[np.int64]:
    """Return random images, ascending, whose rows are to be computed whole for the recall."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(num_images, min(count, num_images), replace=False))
