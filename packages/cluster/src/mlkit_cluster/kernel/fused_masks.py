"""Mask losses of the positives of one raw output, compiled by numba.

The cross-entropy of a cell with logit z and mask m is softplus(z) - z * m, and z is linear in the
prototypes. So an anchor's sum over a crop is a sum of softplus, which hangs on the anchor and the
crop, less its coefficients times the prototypes' sum over the mask, which hangs on the target
alone. The former comes from sums down the columns where an anchor serves many crops, from the crop
itself where it serves few.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlkit_cluster.kernel.compiling import compiled, kernel
from mlkit_cluster.kernel.mask_lanes import soft_lanes
from mlkit_cluster.kernel.rows import LANES

_LANES, _ONE, _NONE = np.uint64(LANES), np.uint64(1), np.uint64(0)
# Sums over all cells cost about as much as the crops' own cells, times this.
_WHOLE = 1.6


class MaskArrays(NamedTuple):
    """A row's prototypes and coefficients, flat, their number a multiple of `DEPTH_STEP`."""

    protos: np.ndarray  # [M * pitch] float32, pitch = side * side + LANES
    coefs: np.ndarray  # [A * M] float32
    sums: np.ndarray  # [side * (side + 1), M] float64, running sums of prototypes down columns
    side: int
    depth: int


class CropArrays(NamedTuple):
    """A table's crops; see `MaskCrops`."""

    boxes: np.ndarray
    scales: np.ndarray
    starts: np.ndarray
    runs: np.ndarray


class Uses(NamedTuple):
    """Which anchors meet which targets; see `Results`."""

    positives: np.ndarray  # [P, 2] int64
    firsts: np.ndarray  # [K] int64, the first target of each image
    ends: np.ndarray  # [K] int64
    order: np.ndarray  # [P] int64, positives by anchor
    most: int  # targets of an image


@kernel
def mask_kernel(masks: MaskArrays, crops: CropArrays, uses: Uses, losses: np.ndarray) -> None:
    """Write the mask loss of each positive, `[P]` float64."""
    _less_masks(masks, crops, uses, losses)
    side = masks.side
    cells = np.zeros(side * side + LANES, np.float32)
    columns = np.zeros((side + 1, side), np.float64)
    total = len(uses.order)
    first = 0
    while first < total:
        anchor, last, effort = uses.positives[uses.order[first], 0], first, 0
        while last < total and uses.positives[uses.order[last], 0] == anchor:
            x0, x1, y0, y1 = crops.boxes[uses.positives[uses.order[last], 1]]
            effort += max(y1 - y0, 0) * ((x1 - x0 + LANES - 1) // LANES)
            last += 1
        whole = effort > _WHOLE * (side * side // LANES)
        if whole:
            _sum_columns(masks, anchor, cells, columns)
        for place in range(first, last):
            use = uses.order[place]
            target = uses.positives[use, 1]
            crop = crops.boxes[target]
            soft = _looked_up(columns, crop) if whole else _soft_sum(masks, anchor, crop, cells)
            losses[use] = (losses[use] + soft) * crops.scales[target]
        first = last


@compiled
def _less_masks(masks: MaskArrays, crops: CropArrays, uses: Uses, losses: np.ndarray) -> None:
    """Write to each positive's loss minus its coefficients times the prototypes in the mask."""
    inside = np.zeros((uses.most, masks.depth), np.float64)
    known = np.zeros(uses.most, np.bool_)
    begin = 0
    for k in range(len(uses.ends)):
        known[:] = False
        for use in range(begin, uses.ends[k]):
            target = uses.positives[use, 1]
            local = target - uses.firsts[k]
            if not known[local]:
                _proto_sum(masks, crops, target, inside[local])
                known[local] = True
            at = uses.positives[use, 0] * masks.depth
            total = 0.0
            for m in range(masks.depth):
                total += inside[local, m] * np.float64(masks.coefs[np.uint64(at + m)])
            losses[use] = -total
        begin = uses.ends[k]


@compiled
def _proto_sum(masks: MaskArrays, crops: CropArrays, target: int, inside: np.ndarray) -> None:
    """Write the prototypes' sums over a target's mask within its crop."""
    inside[:] = 0.0
    for run in range(crops.starts[target], crops.starts[target + 1]):
        low, high = masks.sums[crops.runs[run, 0]], masks.sums[crops.runs[run, 1]]
        for m in range(len(inside)):
            inside[m] += high[m] - low[m]


@compiled
def _soft_row(masks: MaskArrays, anchor: int, run: tuple[int, int], cells: np.ndarray) -> None:
    """Write the softplus of an anchor's logits to `cells`, for `run` (first cell, end)."""
    pitch = np.uint64(masks.side * masks.side) + _LANES
    coef = np.uint64(anchor * masks.depth)
    source = (masks.protos, pitch, masks.coefs)
    for start in range(np.uint64(run[0]), np.uint64(run[1]), _LANES):
        soft_lanes(source, np.uint64(masks.depth), start, coef, cells)


@compiled
def _soft_sum(masks: MaskArrays, anchor: int, crop: np.ndarray, cells: np.ndarray) -> float:
    """Return the sum of softplus over a crop."""
    x0, x1, y0, y1 = crop
    total = 0.0
    if x0 >= x1:
        return total
    for y in range(y0, y1):
        start, end = y * masks.side + x0, y * masks.side + x1
        _soft_row(masks, anchor, (start, end), cells)
        for cell in range(np.uint64(start), np.uint64(end)):
            total += np.float64(cells[cell])
    return total


@compiled
def _sum_columns(masks: MaskArrays, anchor: int, cells: np.ndarray, columns: np.ndarray) -> None:
    """Write running sums of softplus down each column of the whole mask."""
    side = masks.side
    _soft_row(masks, anchor, (0, side * side), cells)
    for y in range(side):
        above, below = columns[y], columns[y + 1]
        row = cells[y * side : (y + 1) * side]
        for x in range(side):
            below[x] = above[x] + np.float64(row[x])


@compiled
def _looked_up(columns: np.ndarray, crop: np.ndarray) -> float:
    """Return the sum over a crop of what the running sums add up."""
    x0, x1, y0, y1 = crop
    total = 0.0
    if y0 < y1:
        low, high = columns[y0], columns[y1]
        for x in range(x0, x1):
            total += high[x] - low[x]
    return total
