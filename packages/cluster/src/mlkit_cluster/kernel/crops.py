"""Masks of targets as the mask loss reads them: crops to the boxes, and runs down the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.kernel.masks import mask_runs
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.kernel.grid import Grid


@dataclass(frozen=True)
class MaskCrops:
    """The masks of all targets inside their boxes.

    Args:
        boxes: `[G, 4]` int64, x0, x1, y0, y1 in mask cells, upper bounds exclusive.
        scales: `[G]` float64; times a sum over a crop gives the mask loss of an anchor: one over
            the cells of the whole mask and over the box's share of the image.
        starts: `[G + 1]` int64, each target's runs.
        runs: `[R, 2]` int64: where a run's first cell and the one after its last lie in columns of
            h + 1 cells each.
    """

    boxes: np.ndarray
    scales: np.ndarray
    starts: np.ndarray
    runs: np.ndarray


def crop_masks(masks: Sequence[bytes] | None, corners: np.ndarray, grid: Grid) -> MaskCrops | None:
    """Return the crops of masks to their boxes.

    Args:
        masks: One blob of `encode_mask` for each target, or None.
        corners: `[G, 4]` float32, xyxy in input pixels.
        grid: Of the detector.

    Raises:
        InputError: A mask has not a quarter of the input's sides.
    """
    if masks is None:
        return None
    side = grid.mask_side
    # float32 and in the criterion's order: a crop's edge may fall on a cell.
    relative = corners / np.float32(grid.image_size)
    edges = np.ceil(relative * np.float32(side)).clip(0, side).astype(np.int64)
    boxes = edges[:, [0, 2, 1, 3]]
    areas = (relative[:, 2] - relative[:, 0]) * (relative[:, 3] - relative[:, 1])
    with np.errstate(divide="ignore"):
        scales = 1 / (np.float64(side * side) * areas.astype(np.float64))
    owner, runs = _column_runs(*_ones(masks, side), side, boxes)
    starts = np.searchsorted(owner, np.arange(len(masks) + 1)).astype(np.int64)
    return MaskCrops(boxes, scales, starts, runs)


def _ones(masks: Sequence[bytes], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return owners `[R]` and bounds `[R, 2]` of all runs of ones, cells counted down columns."""
    owners, bounds = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for index, blob in enumerate(masks):
        size, lengths = mask_runs(blob)
        if size != (side, side):
            raise InputError(f"mask {index}: expected {side} x {side} cells, got {size}")
        ends = lengths.cumsum()
        ones = np.stack([ends[0 : len(ends) - 1 : 2], ends[1::2]], 1)
        owners.append(np.full(len(ones), index))
        bounds.append(ones)
    return np.concatenate(owners), np.concatenate(bounds)


def _column_runs(
    owner: np.ndarray, bounds: np.ndarray, side: int, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return owners and runs, cut at the columns' ends and at the crops."""
    first, last = bounds[:, 0] // side, (bounds[:, 1] - 1) // side
    spans = np.maximum(last - first + 1, 0)
    source = np.repeat(np.arange(len(owner)), spans)
    step = np.arange(len(source)) - np.repeat(spans.cumsum() - spans, spans)
    column, owner = first[source] + step, owner[source]
    x0, x1, y0, y1 = boxes[owner].T
    low = np.maximum(bounds[source, 0] - column * side, y0)
    high = np.minimum(bounds[source, 1] - column * side, y1)
    kept = (column >= x0) & (column < x1) & (low < high)
    runs = np.stack([low, high], 1) + column[:, None] * (side + 1)
    return owner[kept], np.ascontiguousarray(runs[kept])
