"""Square matrices of losses: what is asked of them, and how they are walked in blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_VALUES = 1 << 22  # values of a block: 16 MB of float32, 32 MB of float64


def row_blocks(num_rows: int, num_columns: int) -> Iterator[tuple[int, int]]:
    """Yield first and last-plus-one row of blocks that hold about `BLOCK_VALUES` values."""
    step = max(1, BLOCK_VALUES // max(1, num_columns))
    for first in range(0, num_rows, step):
        yield first, min(num_rows, first + step)


def side_of(matrix: NDArray[np.floating], name: str) -> int:
    """Return N of a matrix `[N, N]`.

    Raises:
        InputError: Where it is not square, or empty.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InputError(f"{name}: expected [N, N] with N > 0, got {list(matrix.shape)}")
    return len(matrix)


def refuse_unknown(matrix: NDArray[np.floating], name: str) -> None:
    """Refuse a matrix with NaN or infinity, naming one such place.

    Raises:
        InputError: With the first row and column of the kind.
    """
    for first, last in row_blocks(*matrix.shape):
        bad = ~np.isfinite(matrix[first:last])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"{name}: row {first + row}, column {column}: not a finite number",
                hint="combine the components with a policy for NaN first (total_distance)",
            )


def refuse_asymmetric(matrix: NDArray[np.floating], name: str) -> None:
    """Refuse what is no dissimilarity of pairs: asymmetric, negative, or not 0 on the diagonal.

    Raises:
        InputError: For a matrix that `symmetrise` has not seen.
    """
    side_of(matrix, name)
    refuse_unknown(matrix, name)
    hint = "symmetrise the loss distance first"
    if np.any(np.diagonal(matrix) != 0):
        raise InputError(f"{name}: the diagonal must be 0", hint=hint)
    for first, last in row_blocks(*matrix.shape):
        block = matrix[first:last]
        if block.min() < 0:
            raise InputError(f"{name}: negative distance in rows {first} to {last - 1}", hint=hint)
        if not np.allclose(block, matrix[:, first:last].T, rtol=1e-5, atol=1e-8):
            raise InputError(f"{name}: not symmetric in rows {first} to {last - 1}", hint=hint)


def off_diagonal(matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a contiguous matrix `[N, N]` without its diagonal as a view `[N - 1, N]`."""
    side = len(matrix)
    # Dropping the last value leaves N - 1 runs of N + 1 values that each begin on the diagonal.
    return matrix.reshape(-1)[:-1].reshape(side - 1, side + 1)[:, 1:]


def embedding_rows(embeddings: NDArray[np.floating], name: str = "embeddings") -> int:
    """Return N of embeddings `[N, D]`.

    Raises:
        InputError: Where the shape is another or a value is not finite.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise InputError(f"{name}: expected [N, D] with N, D > 0, got {list(embeddings.shape)}")
    refuse_unknown(embeddings, name)
    return len(embeddings)


def unit_rows(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return `[N, D]` scaled to rows of length 1; a row of zeros stays one.

    Between unit rows |a - b|^2 = 2 (1 - cosine), so that Euclidean neighbours are cosine's.
    """
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def pair_distances(embeddings: NDArray[np.floating], metric: str) -> NDArray[np.float32]:
    """Return symmetric distances `[N, N]` of embeddings, "cosine" (0..2) or "euclidean".

    Raises:
        InputError: For another metric.
    """
    side = embedding_rows(embeddings)
    if metric not in ("cosine", "euclidean"):
        raise InputError(f"metric: expected 'cosine' or 'euclidean', got {metric!r}")
    points = (unit_rows(embeddings) if metric == "cosine" else embeddings).astype(np.float64)
    squares = (points**2).sum(1)
    distances = np.empty((side, side), np.float32)
    for first, last in row_blocks(side, side):
        block = points[first:last] @ points.T
        if metric == "cosine":
            np.subtract(1, block, out=block)
        else:
            block = squares[first:last, None] + squares - 2 * block
        np.maximum(block, 0, out=block)
        distances[first:last] = block if metric == "cosine" else np.sqrt(block)
    return _mirrored(distances)


def _mirrored(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make rounding symmetric: the lower triangle's values in both, 0 on the diagonal."""
    side = len(distances)
    for first, last in row_blocks(side, side):
        distances[:first, first:last] = distances[first:last, :first].T
        tile = np.tril(distances[first:last, first:last], -1)
        distances[first:last, first:last] = tile + tile.T
    return distances
