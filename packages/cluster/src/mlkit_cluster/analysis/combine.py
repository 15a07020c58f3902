"""From the losses' components `[N, N]` to one distance, and to a symmetric one.

`dist[i][j]` is the loss of image i's raw output against the predictions of image j: not symmetric,
not 0 on the diagonal, NaN in box, dfl and seg where j has no predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_cluster.analysis.matrices import off_diagonal, refuse_unknown, row_blocks, side_of
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

UnknownPolicy = Literal["max", "drop"]
Symmetry = Literal["mean", "max", "min", "debiased"]
SYMMETRIES: tuple[Symmetry, ...] = ("mean", "max", "min", "debiased")
HIGH_PERCENTILE = 99.0  # what stands for an unknown loss under the policy "max"
_TILE = 1024  # rows and columns of a tile: two of them lie in the cache


def total_distance(
    components: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, float] | Literal["robust"],
    nan: UnknownPolicy = "max",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the weighted sum of the components, and which images it holds.

    Args:
        components: Name to `[N, N]`; may be memory-mapped. NaN and infinity are unknown.
        weights: Of each component; more names than components are fine, as a detector without
            masks has no seg. "robust": each component divided by its off-diagonal median.
        nan: "max" puts the component's off-diagonal 99th percentile where it is unknown; "drop"
            leaves out the images that cause the unknown values.

    Returns:
        `[n, n]` with the diagonal as it came, and the kept images' indices `[n]`, ascending.

    Raises:
        InputError: For shapes that differ, a component without weight or without known value.
    """
    if nan not in ("max", "drop"):
        raise InputError(f"nan: expected 'max' or 'drop', got {nan!r}")
    side = _common_side(components)
    factors = component_factors(components, weights)
    used = {name: components[name] for name, factor in factors.items() if factor}
    if not used:
        raise InputError("weights: every component's weight is 0")
    kept = _known_images(used) if nan == "drop" else np.arange(side)
    total = np.zeros((len(kept), len(kept)), np.float32)
    for name, matrix in used.items():
        fill = _high_loss(matrix, name) if nan == "max" else np.nan
        for first, last in row_blocks(len(kept), side):
            block = np.asarray(matrix[kept[first:last]], np.float32)
            block = block if len(kept) == side else block[:, kept]
            known = np.where(np.isfinite(block), block, np.float32(fill))
            total[first:last] += np.float32(factors[name]) * known
    return total, kept


def component_factors(
    components: Mapping[str, NDArray[np.float32]], weights: Mapping[str, float] | Literal["robust"]
) -> dict[str, float]:
    """Return what each component is multiplied by under these weights.

    Raises:
        InputError: For a component without weight, or with a median of 0 under "robust".
    """
    if isinstance(weights, str):
        if weights != "robust":
            raise InputError(f"weights: expected a mapping or 'robust', got {weights!r}")
        return {name: 1 / _median(matrix, name) for name, matrix in components.items()}
    missing = [name for name in components if name not in weights]
    if missing:
        raise InputError(f"weights: no weight for {', '.join(missing)}")
    wrong = [name for name in components if not 0 <= weights[name] < np.inf]
    if wrong:
        raise InputError(f"weights: {wrong[0]}: expected at least 0, got {weights[wrong[0]]}")
    return {name: float(weights[name]) for name in components}


def symmetrise(
    distance: NDArray[np.floating], how: Symmetry = "mean", *, overwrite: bool = False
) -> NDArray[np.floating]:
    """Return a symmetric matrix `[N, N]` with a zero diagonal; it is not a metric.

    "mean", "max" and "min" of D_ij and D_ji; "debiased": (D_ij + D_ji - D_ii - D_jj) / 2, clipped
    at 0, which takes away what each image loses even against its own predictions.

    Args:
        distance: `[N, N]`, finite.
        how: One of `SYMMETRIES`.
        overwrite: Whether the result may replace `distance`, for matrices that fill the memory.

    Raises:
        InputError: For NaN or infinity, another shape, an unknown name.
    """
    side = side_of(distance, "distance")
    if how not in SYMMETRIES:
        raise InputError(f"symmetrise: expected one of {', '.join(SYMMETRIES)}, got {how!r}")
    refuse_unknown(distance, "distance")
    own = np.diagonal(distance).copy()
    result = distance if overwrite else np.empty_like(distance)
    for top in range(0, side, _TILE):
        for left in range(top, side, _TILE):
            rows, columns = slice(top, top + _TILE), slice(left, left + _TILE)
            upper, lower = distance[rows, columns], distance[columns, rows].T
            tile = _merged(upper, lower, how, own[rows, None] + own[columns])
            result[rows, columns], result[columns, rows] = tile, tile.T
    np.fill_diagonal(result, 0)
    return result


def _merged(
    upper: NDArray[np.floating], lower: NDArray[np.floating], how: str, own: NDArray[np.floating]
) -> NDArray[np.floating]:
    if how == "max":
        return np.maximum(upper, lower)
    if how == "min":
        return np.minimum(upper, lower)
    both = upper + lower
    return both / 2 if how == "mean" else np.maximum(both - own, 0) / 2


def _common_side(components: Mapping[str, NDArray[np.float32]]) -> int:
    if not components:
        raise InputError("components: none given")
    sides = {name: side_of(matrix, f"component {name}") for name, matrix in components.items()}
    if len(set(sides.values())) > 1:
        got = ", ".join(f"{name} {side}" for name, side in sides.items())
        raise InputError(f"components: must have one size, got {got}")
    return next(iter(sides.values()))


def _off_diagonal_values(matrix: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the known values off the diagonal, a copy that may be reordered."""
    if len(matrix) == 1:
        raise InputError(f"component {name}: one image has no pairs")
    pairs = off_diagonal(np.ascontiguousarray(matrix))
    values = pairs[np.isfinite(pairs)]
    if not values.size:
        raise InputError(
            f"component {name}: no known value off the diagonal",
            hint="no image has predictions at this target_conf; leave the component out",
        )
    return values


def _median(matrix: NDArray[np.float32], name: str) -> float:
    median = float(np.median(_off_diagonal_values(matrix, name), overwrite_input=True))
    if median <= 0:
        raise InputError(f"weights: robust: component {name}: its median is {median}, not positive")
    return median


def _high_loss(matrix: NDArray[np.float32], name: str) -> float:
    if all(np.isfinite(matrix[a:b]).all() for a, b in row_blocks(*matrix.shape)):
        return np.nan  # nothing to fill
    values = _off_diagonal_values(matrix, name)
    return float(np.percentile(values, HIGH_PERCENTILE, overwrite_input=True))


def _known_images(components: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
    """Return the images left when the one with most unknown values goes, until there is none."""
    side = len(next(iter(components.values())))
    unknown = np.zeros((side, side), bool)
    for matrix in components.values():
        for first, last in row_blocks(side, side):
            unknown[first:last] |= ~np.isfinite(matrix[first:last])
    counts = unknown.sum(0) + unknown.sum(1)
    keep = np.ones(side, bool)
    while counts.max() > 0:
        worst = int(counts.argmax())
        keep[worst] = False
        counts -= unknown[worst].astype(counts.dtype) + unknown[:, worst]
        unknown[worst] = unknown[:, worst] = False
        counts[worst] = 0
    if not keep.any():
        raise InputError("components: no image is left when those with NaN are dropped")
    return np.flatnonzero(keep)
