"""Sixteen float32 at a time, for functions that numba compiles.

numba leaves most loops of the kernels scalar. Written as LLVM vectors they are packed on every
processor, each in its own width. No fast-math: every operation rounds as torch's does, which keeps
the choice of anchors the criterion's own.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mlkit_cluster.kernel.rows import LANES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value: TypeAlias = Any  # a value in LLVM's code; llvmlite's own types hardly say more

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)


def floats(number: float) -> Value:
    """Return a constant in all lanes."""
    return ir.Constant(FLOATS, [float(np.float32(number))] * LANES)


def ints(numbers: Sequence[int] | int) -> Value:
    """Return constant integers, one for each lane or one for all."""
    values = [numbers] * LANES if isinstance(numbers, int) else list(numbers)
    return ir.Constant(INTS, values)


def repeat(builder: ir.IRBuilder, scalar: Value) -> Value:
    """Return a scalar in all lanes."""
    kind = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, INT(0))
    return builder.shuffle_vector(first, first, ints(0))


def turned(builder: ir.IRBuilder, vector: Value, by: int) -> Value:
    """Return a vector whose lane k holds what lane k + `by` (modulo all) held."""
    order = ints([(lane + by) % LANES for lane in range(LANES)])
    return builder.shuffle_vector(vector, vector, order)


class Vector:
    """A vector of float32 under construction, with the operators of arithmetic."""

    def __init__(self, builder: ir.IRBuilder, value: Value) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, _value(other)))

    def __sub__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, _value(other)))

    def __rsub__(self, other: float) -> Vector:
        return Vector(self.builder, self.builder.fsub(floats(other), self.value))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, _value(other)))

    def __truediv__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fdiv(self.value, _value(other)))

    def times_plus(self, factor: Vector | float, term: Vector | float) -> Vector:
        """Return `self * factor + term`, rounded once where the processor can."""
        kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        fused = cgutils.get_or_insert_function(self.builder.module, kind, name)
        args = [self.value, _value(factor), _value(term)]
        return Vector(self.builder, self.builder.call(fused, args))

    def least(self, other: Vector | float) -> Vector:
        """Return the smaller of both in each lane; `other` where one is NaN."""
        return self._choose("<", other)

    def most(self, other: Vector | float) -> Vector:
        """Return the larger of both in each lane; `other` where one is NaN."""
        return self._choose(">", other)

    def _choose(self, relation: str, other: Vector | float) -> Vector:
        than = _value(other)
        own = self.builder.fcmp_ordered(relation, self.value, than)
        return Vector(self.builder, self.builder.select(own, self.value, than))


def _value(other: Vector | float) -> Value:
    return other.value if isinstance(other, Vector) else floats(other)


class Argument:
    """An argument of an operation: a scalar, a flat float32 array, or a tuple of arguments."""

    def __init__(self, context: Value, builder: ir.IRBuilder, kind: Value, value: Value) -> None:
        self.context, self.builder, self.kind, self.value = context, builder, kind, value

    def __getitem__(self, index: int) -> Argument:
        part = self.builder.extract_value(self.value, index)
        return Argument(self.context, self.builder, self.kind[index], part)

    def lanes(self) -> Vector:
        """Return a scalar in all lanes."""
        return Vector(self.builder, repeat(self.builder, self.value))

    def place(self, index: Value) -> Value:
        """Return the address of an array's value."""
        array = self.context.make_array(self.kind)(self.context, self.builder, self.value)
        return self.builder.gep(array.data, [index])

    def load(self, index: Value) -> Vector:
        """Return an array's sixteen values from `index` on, at any alignment."""
        value: Value = self.builder.load(self._vector_place(index))
        value.align = 4
        return Vector(self.builder, value)

    def load_one(self, index: Value) -> Vector:
        """Return one value of an array in all lanes."""
        return Vector(self.builder, repeat(self.builder, self.builder.load(self.place(index))))

    def store(self, vector: Vector, index: Value) -> None:
        """Write sixteen values into an array from `index` on."""
        stored: Value = self.builder.store(vector.value, self._vector_place(index))
        stored.align = 4

    def _vector_place(self, index: Value) -> Value:
        return self.builder.bitcast(self.place(index), FLOATS.as_pointer())


def operation(result: Value = types.void) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Return a decorator that makes a builder of LLVM code callable from compiled functions.

    The builder gets an `ir.IRBuilder` and its `Argument`s, and returns a value of type `result`.

        @operation(types.float32)
        def first_of(builder, values):
            return builder.load(values.place(LONG(0)))
    """

    def decorate(build: Callable[..., Value]) -> Callable[..., Value]:
        def typed(_: Value, *kinds: Value) -> Value:
            def generate(
                context: Value, builder: ir.IRBuilder, signature: Value, args: Sequence[Value]
            ) -> Value:
                pairs = zip(signature.args, args, strict=True)
                given = [Argument(context, builder, kind, value) for kind, value in pairs]
                built = build(builder, *given)
                return context.get_dummy_value() if result is types.void else built

            return result(*kinds), generate

        # numba takes the number of arguments from here, and one more for its own context.
        setattr(typed, "__signature__", inspect.signature(build))  # noqa: B010  # pyright
        return intrinsic(typed)

    return decorate
