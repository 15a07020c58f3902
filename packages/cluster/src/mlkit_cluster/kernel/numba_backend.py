"""Pair losses by the compiled kernels."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_cluster.kernel.arrays import Picks, Results, RowArrays, Scratch, TargetArrays
from mlkit_cluster.kernel.fused import pair_kernel
from mlkit_cluster.kernel.fused_masks import CropArrays, MaskArrays, Uses, mask_kernel
from mlkit_cluster.kernel.mask_lanes import DEPTH_STEP
from mlkit_cluster.kernel.rows import LANES, TOP

if TYPE_CHECKING:
    from mlkit_cluster.kernel.crops import MaskCrops
    from mlkit_cluster.kernel.grid import Grid
    from mlkit_cluster.kernel.rows import Row
    from mlkit_cluster.kernel.table import TargetTable


def compiled_losses(
    row: Row, table: TargetTable, columns: np.ndarray, *, with_masks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return losses `[K, 6]` float64 and doubts `[K]` bool.

    Losses are box, cls, dfl, seg, number of positives, sum of soft scores. In doubt are pairs whose
    positives hang on how torch selects among equals; they are to be computed otherwise.

    Args:
        row: On the CPU.
        table: Of the same grid.
        columns: `[K]` int64.
        with_masks: Whether seg is wanted; otherwise it is 0.
    """
    counts = table.starts[columns + 1] - table.starts[columns]
    room = TOP * int(counts.sum()) if with_masks else 0
    results = Results(
        losses=np.zeros((len(columns), 6)),
        doubts=np.empty(len(columns), np.bool_),
        ends=np.empty(len(columns), np.int64),
        positives=np.empty((room, 2), np.int64),
    )
    targets = TargetArrays(table.boxes, table.scaled, table.cells, table.labels, table.starts)
    most = int(counts.max(initial=0))
    pair_kernel(_row_arrays(row), targets, columns, _work(row.grid, most), results)
    if with_masks and table.crops is not None:
        uses = _uses(table, columns, results, most)
        results.losses[:, 3] = _mask_losses(row, table.crops, uses)
    return results.losses, results.doubts


def _row_arrays(row: Row) -> RowArrays:
    flat = (row.planes, row.roots, row.logits, row.log_probs, row.records)
    grid = row.grid
    return RowArrays(
        *(values.contiguous().view(-1).numpy() for values in flat),
        offsets=np.array(grid.offsets, np.int64),
        sides=np.array(grid.sides, np.int64),
        num_anchors=grid.num_anchors,
        reg_max=grid.reg_max,
        background=row.background,
    )


_threads = threading.local()


def _work(grid: Grid, most: int) -> tuple[Scratch, Picks]:
    """Return this thread's memory for images of up to `most` targets; kept for its next row."""
    room = 1 << max(3, (most - 1).bit_length())
    if getattr(_threads, "key", None) != (grid, room):
        _threads.key, _threads.work = (grid, room), _new_work(grid, room)
    return _threads.work


def _new_work(grid: Grid, most: int) -> tuple[Scratch, Picks]:
    candidates = sum(side * (side + LANES) for side in grid.sides)
    picks = TOP * most + LANES
    floats, ints = (lambda n: np.zeros(n, np.float32)), (lambda n: np.zeros(n, np.uint64))
    scratch = Scratch(
        metric=floats(candidates),
        overlap=floats(candidates),
        first=np.zeros(candidates // LANES + 1, np.int64),
        peaks=floats(LANES),
        places=ints(candidates),
        values=floats(candidates),
        holder=np.full(grid.num_anchors, -1, np.int32),
    )
    return scratch, Picks(
        anchor=ints(picks),
        target=np.zeros(picks, np.int64),
        metric=floats(picks),
        overlap=floats(picks),
        claims=np.zeros(picks, np.int32),
        top=floats(2 * most),
        theirs=floats(6 * picks),
        ours=floats(6 * picks),
        exact=floats(picks),
    )


def _uses(table: TargetTable, columns: np.ndarray, results: Results, most: int) -> Uses:
    total = int(results.ends[-1]) if len(columns) else 0
    positives = results.positives[:total]
    # numpy sorts integers of 16 bits by their digits, ten times faster than wider ones.
    narrow = table.grid.num_anchors <= np.iinfo(np.uint16).max + 1
    order = positives[:, 0].astype(np.uint16 if narrow else np.int64).argsort(kind="stable")
    return Uses(positives, table.starts[columns], results.ends, order, most)


def _mask_losses(row: Row, crops: MaskCrops, uses: Uses) -> np.ndarray:
    """Return `[K]`: the mean mask loss of each image's positives, 0 where there is none."""
    losses = np.empty(len(uses.order))
    arrays = CropArrays(crops.boxes, crops.scales, crops.starts, crops.runs)
    mask_kernel(_mask_arrays(row), arrays, uses, losses)
    sums = np.concatenate([[0.0], losses.cumsum()])
    begins = np.concatenate([[0], uses.ends[:-1]])
    return (sums[uses.ends] - sums[begins]) / np.maximum(uses.ends - begins, 1)


def _mask_arrays(row: Row) -> MaskArrays:
    assert row.protos is not None
    assert row.coefs is not None
    depth, side, _ = row.protos.shape
    padding = -depth % DEPTH_STEP
    pad = torch.nn.functional.pad
    return MaskArrays(
        protos=pad(row.protos.view(depth, -1), (0, LANES, 0, padding)).view(-1).numpy(),
        coefs=pad(row.coefs, (0, padding)).contiguous().view(-1).numpy(),
        sums=pad(row.proto_sums, (0, padding)).numpy(),
        side=side,
        depth=depth + padding,
    )
