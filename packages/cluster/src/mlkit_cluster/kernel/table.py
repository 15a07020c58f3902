"""What can be computed of targets once, whatever raw output they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_cluster.kernel.crops import crop_masks
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from mlkit_cluster.kernel.grid import Grid
    from mlkit_cluster.kernel.targets import Targets

EPS = np.float32(1e-7)  # of the overlaps
_INSIDE_EPS = np.float32(1e-9)  # pixels by which an anchor must be inside
_CHUNK = 1 << 14


class TargetTable:
    """Targets on a grid: corners, areas, candidate cells and mask runs.

    Attributes: `boxes` `[G, 6]` float32 (corners in input pixels, area, angle: arc tangent of width
    over height), `scaled` `[G, L, 6]` the same in each level's strides, `cells` `[G, L, 4]` int32
    (x0, x1, y0, y1: the cells whose centres lie inside, upper bounds exclusive), `labels` `[G]`
    int32, `starts` `[J + 1]` int64, `crops` of the masks or None.

    Args:
        targets: Of all images.
        grid: Of the raw outputs to come.

    Raises:
        InputError: A label has no class, or a mask another size than a quarter of the input.
    """

    def __init__(self, targets: Targets, grid: Grid) -> None:
        self.grid = grid
        self.labels = np.ascontiguousarray(targets.labels, np.int32)
        self.starts = np.ascontiguousarray(targets.starts, np.int64)
        _check_labels(self.labels, grid.num_classes)
        corners = _corners(targets.boxes_xywhn, grid.image_size)
        self.boxes = _with_extents(corners)
        scales = [_with_extents(corners / np.float32(stride)) for stride in grid.strides]
        self.scaled = np.ascontiguousarray(np.stack(scales, 1))
        self.cells = _candidate_cells(corners, grid)
        self.crops = crop_masks(targets.masks, corners, grid)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts) - 1


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"targets: labels {labels.min()} to {labels.max()} for {num_classes} classes"
        )


# The decision whether an anchor lies inside a box hangs on the last bit of its corners: what
# follows takes the criterion's operations in its order, in float32.


def _corners(boxes_xywhn: np.ndarray, image_size: int) -> np.ndarray:
    """Return corners `[G, 4]` in input pixels."""
    boxes = np.asarray(boxes_xywhn, np.float32) * np.float32(image_size)
    half = boxes[:, 2:] / np.float32(2)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def _enlarged(corners: np.ndarray, floor: float, valid: np.ndarray) -> np.ndarray:
    """Return corners of boxes whose sides are at least `floor` pixels about the same centre."""
    low, high = corners[:, :2], corners[:, 2:]
    centre, sides = (low + high) / np.float32(2), high - low
    sides = np.where((sides < floor) & valid[:, None], np.float32(floor), sides)
    half = sides / np.float32(2)
    return np.concatenate([centre - half, centre + half], 1)


def _with_extents(corners: np.ndarray) -> np.ndarray:
    """Return `[G, 6]`: corners, area and angle."""
    width = corners[:, 2] - corners[:, 0]
    height = corners[:, 3] - corners[:, 1] + EPS
    # torch's arc tangent, because its last bit is the criterion's.
    angle = torch.atan(torch.from_numpy(width / height)).numpy()
    return np.concatenate([corners, np.stack([width * height, angle], 1)], 1)


def _candidate_cells(corners: np.ndarray, grid: Grid) -> np.ndarray:
    """Return `[G, L, 4]` int32; a target that the criterion calls padding has no cells."""
    valid = corners.sum(1) > 0
    reach = _enlarged(corners, grid.floor, valid)
    cells = np.zeros((len(corners), len(grid.strides), 4), np.int32)
    for first in range(0, len(corners), _CHUNK):
        part = slice(first, first + _CHUNK)
        for level, (stride, side) in enumerate(zip(grid.strides, grid.sides, strict=True)):
            centres = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(stride)
            for axis in (0, 1):
                bounds = _inside(reach[part, axis], reach[part, axis + 2], centres)
                cells[part, level, 2 * axis : 2 * axis + 2] = bounds
    empty = (cells[:, :, 0] >= cells[:, :, 1]) | (cells[:, :, 2] >= cells[:, :, 3])
    cells[empty | ~valid[:, None]] = 0
    return cells


def _inside(low: np.ndarray, high: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return `[G, 2]`: the first centre inside and one past the last."""
    inside = (centres - low[:, None] > _INSIDE_EPS) & (high[:, None] - centres > _INSIDE_EPS)
    first = inside.argmax(1)
    return np.stack([first, first + inside.sum(1)], 1)
