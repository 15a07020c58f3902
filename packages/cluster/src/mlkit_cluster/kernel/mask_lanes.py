"""The vector operation of the mask kernel: background losses of sixteen mask cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from numba.core import cgutils

from mlkit_cluster.kernel.vectors import (
    FLOATS,
    INTS,
    LONG,
    Argument,
    Vector,
    floats,
    ints,
    operation,
)

if TYPE_CHECKING:
    from llvmlite import ir

DEPTH_STEP = 4  # mask coefficients taken at a time; their number is a multiple
# ln 2 in two parts, the first so short that its multiples are exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


def _decay(distance: Vector) -> Vector:
    """Return `exp(-distance)` of distances from 0 to 87."""
    builder = distance.builder
    halvings = builder.fptosi(distance.times_plus(1 / math.log(2), 0.5).value, INTS)
    count = Vector(builder, builder.sitofp(halvings, FLOATS))
    rest = count.times_plus(_LN2_LOW, count.times_plus(_LN2_HIGH, distance * -1.0))
    series = rest.times_plus(1 / 720, 1 / 120)
    for term in (1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        series = series.times_plus(rest, term)
    exponent = builder.shl(builder.sub(ints(127), halvings), ints(23))
    return series * Vector(builder, builder.bitcast(exponent, FLOATS))


def _softplus(logit: Vector) -> Vector:
    """Return `log(1 + exp(logit))`, the cross-entropy of a cell against an empty mask."""
    decay = _decay(logit.most(logit * -1.0).least(87.0))
    # log(1 + e) = 2 artanh(e / (2 + e)), whose series needs seven terms up to 1 / 3.
    ratio = decay / (decay + 2.0)
    square = ratio * ratio
    series = square.times_plus(1 / 13, 1 / 11)
    for power in (9, 7, 5, 3, 1):
        series = series.times_plus(square, 1 / power)
    return (ratio * 2.0).times_plus(series, logit.most(0))


@operation()
def soft_lanes(
    builder: ir.IRBuilder,
    masks: Argument,
    depth: Argument,
    start: Argument,
    coef: Argument,
    values: Argument,
) -> None:
    """Write the softplus of sixteen cells' logits to `values[start:]`.

    Args:
        builder: Of the code.
        masks: Prototypes flat, their pitch, coefficients flat.
        depth: How many prototypes there are.
        start: First cell.
        coef: Place of the anchor's first coefficient.
        values: A float for each cell.
    """
    sums = [cgutils.alloca_once_value(builder, floats(0)) for _ in range(DEPTH_STEP)]
    steps = builder.udiv(depth.value, LONG(DEPTH_STEP))
    with cgutils.for_range(builder, steps, intp=LONG) as loop:
        for offset, total in enumerate(sums):
            index = builder.add(builder.mul(loop.index, LONG(DEPTH_STEP)), LONG(offset))
            place = builder.add(start.value, builder.mul(index, masks[1].value))
            factor = masks[2].load_one(builder.add(coef.value, index))
            before = Vector(builder, builder.load(total))
            builder.store(masks[0].load(place).times_plus(factor, before).value, total)
    first, second, third, fourth = (Vector(builder, builder.load(total)) for total in sums)
    values.store(_softplus((first + second) + (third + fourth)), start.value)
