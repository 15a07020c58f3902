"""Box, cls and dfl losses of one raw output against many images' targets, compiled by numba.

For each target the overlaps with all anchors inside it are computed, sixteen at a time (`_score`),
and the ten best picked (`_pick`). An anchor that several targets picked goes to one of them
(`_settle`); only the anchors that remain, the positives, enter the losses (`_add_up`).

Source: Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, sec. 3.2, with the
constants of YOLOv8. Unlike the paper, an anchor inside several targets goes to the largest overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.kernel.compiling import compiled, kernel
from mlkit_cluster.kernel.lanes import (
    fetch,
    lanes_from,
    lowest_bit,
    overlap_lanes,
    score_lanes,
    tenth_largest,
)
from mlkit_cluster.kernel.rows import LANES, TOP

if TYPE_CHECKING:
    from mlkit_cluster.kernel.arrays import Index, Picks, Results, RowArrays, Scratch, TargetArrays

# Indices are unsigned, so that numba need not look for negative ones.
_LANES, _ONE, _TOP = np.uint64(LANES), np.uint64(1), np.uint64(TOP)
_NONE, _FOUR, _SIX, _RECORD = np.uint64(0), np.uint64(4), np.uint64(6), np.uint64(8)
_ZERO, _UNIT = np.float32(0), np.float32(1)
_LEAST = np.float32(1e-45)  # the smallest metric above 0
_TINY = np.float32(1e-9)  # the assigner's


@kernel
def pair_kernel(
    row: RowArrays,
    table: TargetArrays,
    columns: np.ndarray,
    work: tuple[Scratch, Picks],
    results: Results,
) -> None:
    """Write the losses of one row against the images `columns` (`[K]` int64)."""
    scratch, picks = work
    written = 0
    for k in range(len(columns)):
        first, last = int(table.starts[columns[k]]), int(table.starts[columns[k] + 1])
        count, doubt = _claim(row, table, (first, last), scratch, picks)
        _settle(row, table, (first, last), count, scratch, picks)
        total = _weigh(count, first, last, picks)
        _measure(row, table, count, picks)
        box, cls, dfl = _add_up(row, table, count, picks)
        norm = max(total, 1.0)
        out = results.losses[k]
        out[0], out[1], out[2] = box / norm, (row.background - cls) / norm, dfl / norm
        out[4], out[5] = count, total
        results.doubts[k] = doubt
        if len(results.positives):
            for pick in range(count):
                results.positives[written, 0] = picks.anchor[pick]
                results.positives[written, 1] = picks.target[pick]
                written += 1
        results.ends[k] = written


@compiled
def _claim(
    row: RowArrays, table: TargetArrays, own: tuple[int, int], scratch: Scratch, picks: Picks
) -> tuple[Index, bool]:
    """Collect what targets `own` pick; return how many anchors, and whether that is in doubt."""
    count, doubt = _NONE, False
    for g in range(*own):
        picked = _pick(scratch, _score(row, table, g, scratch))
        if picked < _TOP:
            doubt |= _may_fill(row, table.cells[g], picked, scratch)
        for k in range(picked):
            place = scratch.places[k]
            anchor = np.uint64(scratch.first[place // _LANES]) + place % _LANES
            holder = scratch.holder[anchor]
            if holder >= 0:
                picks.claims[holder] += 1
                continue
            scratch.holder[anchor] = np.int32(count)
            picks.anchor[count], picks.target[count], picks.claims[count] = anchor, g, 1
            picks.metric[count], picks.overlap[count] = scratch.values[k], scratch.overlap[place]
            _fetch(row, np.uint64(table.labels[g]), anchor)
            count += _ONE
    for k in range(count):
        scratch.holder[picks.anchor[k]] = -1
    return count, doubt


@compiled
def _score(row: RowArrays, table: TargetArrays, g: Index, scratch: Scratch) -> Index:
    """Score all anchors inside target `g`; return how many lanes were filled."""
    scratch.peaks[:] = _ZERO
    filled = _NONE
    for level in range(len(row.sides)):
        x0, x1 = table.cells[g, level, 0], table.cells[g, level, 1]
        for y in range(table.cells[g, level, 2], table.cells[g, level, 3]):
            start = np.uint64(row.offsets[level] + y * row.sides[level] + x0)
            left = np.uint64(x1 - x0)
            while left > _NONE:
                _score_from(row, table, g, (start, left), filled, scratch)
                scratch.first[filled // _LANES] = np.int64(start)
                filled += _LANES
                start += _LANES
                left -= min(left, _LANES)
    return filled


@compiled
def _score_from(
    row: RowArrays,
    table: TargetArrays,
    g: Index,
    run: tuple[Index, Index],
    to: Index,
    scratch: Scratch,
) -> None:
    """Write metric and overlap of up to sixteen anchors, `run` (first, how many), to scratch."""
    start, left = run
    anchors = np.uint64(row.num_anchors)
    box = table.boxes[g]
    target = (box[0], box[1], box[2], box[3], box[4], box[5])
    source = (row.planes, anchors + _LANES, row.roots)
    into = (scratch.metric, scratch.overlap, scratch.peaks)
    root = np.uint64(table.labels[g]) * anchors + start
    score_lanes(source, start, root, target, left, into, to)


@compiled
def _pick(scratch: Scratch, filled: Index) -> Index:
    """Leave places and metrics of the best candidates in scratch; return how many, at most ten."""
    metric, places, values = scratch.metric, scratch.places, scratch.values
    # Ten candidates reach the tenth peak, so that the ten best are no worse.
    bound = max(tenth_largest(scratch.peaks), _LEAST)
    count = _NONE
    for start in range(_NONE, filled, _LANES):
        reached = lanes_from(metric, start, bound)
        while reached:
            place = start + lowest_bit(reached)
            places[count], values[count] = place, metric[place]
            count += _ONE
            reached &= reached - _ONE
    while count > _TOP:
        worst = _NONE
        for k in range(_ONE, count):
            worst = k if values[k] < values[worst] else worst
        count -= _ONE
        places[worst], values[worst] = places[count], values[count]
    return count


@compiled
def _may_fill(row: RowArrays, cells: np.ndarray, picked: Index, scratch: Scratch) -> bool:
    """Return whether the criterion may pick anchors of metric 0 for a target of fewer than ten.

    Which ones is the business of torch's selection. A partial sort, which it takes for 64 values or
    more for each one wanted, finds them among the first ten anchors of all.
    """
    if row.num_anchors < 64 * TOP:
        inside = 0
        for level in range(len(row.sides)):
            x0, x1, y0, y1 = cells[level]
            inside += (x1 - x0) * (y1 - y0)
        return inside > picked
    if cells[0, 2] > 0:
        return False
    doubt = False
    for lane in range(min(cells[0, 1], TOP) - cells[0, 0]):
        doubt |= scratch.metric[lane] <= _ZERO
    return doubt


@compiled
def _fetch(row: RowArrays, label: Index, anchor: Index) -> None:
    """Have what `_measure` and `_add_up` will read of an anchor brought near."""
    bins = np.uint64(row.reg_max)
    for side in range(_FOUR):
        fetch(row.log_probs, (_FOUR * anchor + side) * bins)
    fetch(row.records, _RECORD * anchor)
    fetch(row.logits, label * np.uint64(row.num_anchors) + anchor)


@compiled
def _settle(
    row: RowArrays,
    table: TargetArrays,
    own: tuple[int, int],
    count: Index,
    scratch: Scratch,
    picks: Picks,
) -> None:
    """Give each anchor that several targets picked to the one that it overlaps most."""
    for k in range(count):
        if picks.claims[k] == 1:
            continue
        anchor = picks.anchor[k]
        level = _level(row, anchor)
        cell = np.int64(anchor) - row.offsets[level]
        y, x = cell // row.sides[level], cell % row.sides[level]
        best = np.float32(-1)
        for g in range(*own):
            x0, x1, y0, y1 = table.cells[g, level]
            if x0 <= x < x1 and y0 <= y < y1:
                _score_from(row, table, g, (anchor, _ONE), _NONE, scratch)
                if scratch.overlap[0] > best:
                    best = scratch.overlap[0]
                    picks.target[k], picks.metric[k] = g, scratch.metric[0]
        picks.overlap[k] = best


@compiled
def _level(row: RowArrays, anchor: Index) -> int:
    level = 0
    while level + 1 < len(row.offsets) and anchor >= np.uint64(row.offsets[level + 1]):
        level += 1
    return level


@compiled
def _weigh(count: Index, first: int, last: int, picks: Picks) -> float:
    """Turn the metrics into soft scores; return their sum."""
    picks.top[: 2 * (last - first)] = _ZERO
    for k in range(count):
        at = np.uint64(2 * (picks.target[k] - first))
        picks.top[at] = max(picks.top[at], picks.metric[k])
        picks.top[at + _ONE] = max(picks.top[at + _ONE], picks.overlap[k])
    total = 0.0
    for k in range(count):
        at = np.uint64(2 * (picks.target[k] - first))
        picks.metric[k] = picks.metric[k] * picks.top[at + _ONE] / (picks.top[at] + _TINY)
        total += np.float64(picks.metric[k])
    return total


@compiled
def _measure(row: RowArrays, table: TargetArrays, count: Index, picks: Picks) -> None:
    """Write the overlaps of all picks, in strides and not clamped, to `exact`."""
    room = np.uint64(len(picks.exact))
    for k in range(count):
        g, level = picks.target[k], _level(row, picks.anchor[k])
        at = _RECORD * picks.anchor[k]
        for side in range(_SIX):
            place = side * room + k
            picks.ours[place] = row.records[at + side]
            picks.theirs[place] = table.scaled[g, level, side]
    for start in range(_NONE, count, _LANES):
        overlap_lanes(picks.theirs, picks.ours, room, start, picks.exact)


@compiled
def _add_up(
    row: RowArrays, table: TargetArrays, count: Index, picks: Picks
) -> tuple[float, float, float]:
    """Return the sums over all picks of box, of what cls lacks, and of dfl."""
    box, cls, dfl = 0.0, 0.0, 0.0
    anchors = np.uint64(row.num_anchors)
    for k in range(count):
        weight = np.float64(picks.metric[k])
        label = np.uint64(table.labels[picks.target[k]])
        box += weight * np.float64(_UNIT - picks.exact[k])
        cls += weight * np.float64(row.logits[label * anchors + picks.anchor[k]])
        dfl += weight * _distances(row, k, picks)
    return box, cls, dfl


@compiled
def _distances(row: RowArrays, k: Index, picks: Picks) -> float:
    """Return the distribution focal loss of a pick, the mean of its four sides.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 6.
    """
    bins, room, corners = np.uint64(row.reg_max), np.uint64(len(picks.exact)), picks.theirs
    at = picks.anchor[k] * _RECORD + _SIX
    x, y = row.records[at], row.records[at + _ONE]
    low = (x - corners[k], y - corners[room + k])
    high = (corners[(_ONE + _ONE) * room + k] - x, corners[(_FOUR - _ONE) * room + k] - y)
    place = picks.anchor[k] * _FOUR * bins
    far, total = np.float32(row.reg_max - 1 - 0.01), _ZERO
    for reach in (low[0], low[1], high[0], high[1]):
        distance = min(max(reach, _ZERO), far)
        lower = np.int32(distance)
        to_upper = np.float32(lower + np.int32(1)) - distance
        near = place + np.uint64(lower)
        total -= row.log_probs[near] * to_upper
        total -= row.log_probs[near + _ONE] * (_UNIT - to_upper)
        place += bins
    return np.float64(total) / 4
