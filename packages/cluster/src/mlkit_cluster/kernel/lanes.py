"""The vector operations of the box kernel: overlaps of sixteen anchors, and picking among them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llvmlite import ir
from numba.core import types

from mlkit_cluster.kernel.rows import LANES, TOP
from mlkit_cluster.kernel.vectors import (
    INT,
    INTS,
    LONG,
    Argument,
    Value,
    Vector,
    floats,
    ints,
    operation,
    repeat,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPS = 1e-7  # of the overlaps
_TURN = 7  # lanes by which the peaks turn at each block, so that neighbours meet other lanes


def _overlap(target: Sequence[Vector], anchor: Sequence[Vector]) -> Vector:
    """Return the complete IoU of boxes given as corners, area and angle.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, eqs. 7 to 11. The order of operations is
    the criterion's.
    """
    x1, y1, x2, y2, area, angle = target
    a1, b1, a2, b2, own_area, own_angle = anchor
    wide = (x2.least(a2) - x1.most(a1)).most(0)
    high = (y2.least(b2) - y1.most(b1)).most(0)
    shared = wide * high
    iou = shared / (area + own_area - shared + _EPS)
    hull_x, hull_y = x2.most(a2) - x1.least(a1), y2.most(b2) - y1.least(b1)
    away_x, away_y = a1 + a2 - x1 - x2, b1 + b2 - y1 - y2
    away = (away_x * away_x + away_y * away_y) * 0.25
    turn = own_angle - angle
    shape = turn * turn * (4 / math.pi**2)
    trade = shape / (1 - iou + shape + _EPS)
    return iou - (away / (hull_x * hull_x + hull_y * hull_y + _EPS) + shape * trade)


@operation()
def score_lanes(
    builder: ir.IRBuilder,
    source: Argument,
    start: Argument,
    root: Argument,
    target: Argument,
    left: Argument,
    scratch: Argument,
    to: Argument,
) -> None:
    """Score the anchors from `start` on: write metric and overlap from `to` on, and raise peaks.

    `source` is planes, their pitch and roots; `root` the first anchor's place in roots; `target`
    six floats; `left` how many lanes count; `scratch` metric, overlap and peaks.
    """
    planes, pitch, roots = source[0], source[1], source[2]
    overlap = _overlap([target[k].lanes() for k in range(6)], _planes(planes, start, pitch))
    overlap = overlap.most(0)
    square = overlap * overlap
    metric = roots.load(root.value) * (square * square * square)
    lanes = ir.Constant(ir.VectorType(LONG, LANES), list(range(LANES)))
    counts = builder.icmp_unsigned("<", lanes, repeat(builder, left.value))
    metric = Vector(builder, builder.select(counts, metric.value, floats(0)))
    scratch[0].store(metric, to.value)
    scratch[1].store(overlap, to.value)
    before = Vector(builder, turned(builder, scratch[2].load(LONG(0)).value, _TURN))
    scratch[2].store(metric.most(before), LONG(0))


def _planes(planes: Argument, start: Argument, pitch: Argument) -> list[Vector]:
    """Return corners, area and angle of the boxes from `start` on."""
    place, loaded = start.value, [planes.load(start.value)]
    for _ in range(5):
        place = planes.builder.add(place, pitch.value)
        loaded.append(planes.load(place))
    return loaded


@operation()
def overlap_lanes(
    builder: ir.IRBuilder,
    targets: Argument,
    anchors: Argument,
    pitch: Argument,
    start: Argument,
    overlap: Argument,
) -> None:
    """Write the overlaps of sixteen pairs of boxes; both arrays are planes `pitch` apart."""
    found = _overlap(_planes(targets, start, pitch), _planes(anchors, start, pitch))
    overlap.store(found, start.value)


@operation(types.float32)
def tenth_largest(builder: ir.IRBuilder, values: Argument) -> Value:
    """Return the tenth largest of an array's first sixteen values."""
    vector = values.load(LONG(0)).value
    larger = ints(0)
    for lane in range(LANES):
        one = builder.shuffle_vector(vector, vector, ints(lane))
        above = builder.fcmp_ordered(">", one, vector)
        larger = builder.sub(larger, builder.sext(above, INTS))
    top = builder.icmp_signed("<", larger, ints(TOP))
    least = Vector(builder, builder.select(top, vector, floats(3e38)))
    for half in (8, 4, 2, 1):
        least = least.least(Vector(builder, turned(builder, least.value, half)))
    return builder.extract_element(least.value, INT(0))


@operation(types.uint64)
def lanes_from(builder: ir.IRBuilder, values: Argument, start: Argument, bound: Argument) -> Value:
    """Return one bit for each of the sixteen values from `start`: whether it is `bound` or more."""
    vector = values.load(start.value).value
    reached = builder.fcmp_ordered(">=", vector, bound.lanes().value)
    return builder.zext(builder.bitcast(reached, ir.IntType(LANES)), LONG)


@operation(types.uint64)
def lowest_bit(builder: ir.IRBuilder, bits: Argument) -> Value:
    """Return the place of the lowest bit that is set; there must be one."""
    return builder.cttz(bits.value, ir.Constant(ir.IntType(1), 1))


@operation()
def fetch(builder: ir.IRBuilder, values: Argument, index: Argument) -> None:
    """Ask for the cache line of an array's value, to be read soon."""
    place: Value = builder.bitcast(values.place(index.value), ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, INT, INT, INT])
    ask = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
    builder.call(ask, [place, INT(0), INT(3), INT(1)])  # to read, to keep, data
