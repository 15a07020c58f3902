"""How numba compiles the kernels: without the GIL, kept on disk where there is a place for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., object]")

# "numpy": a division by zero gives infinity and needs no branch.
_OPTIONS = {"error_model": "numpy", "nogil": True}


def compiled(function: Function) -> Function:
    """Return a part of a kernel, compiled into those that call it."""
    return cast("Function", njit(**_OPTIONS)(function))


def kernel(function: Function) -> Function:
    """Return a kernel that Python calls; the first call of each machine compiles it.

    numba sees changes of the function's own file alone: after one elsewhere, touch it.
    """
    try:
        return cast("Function", njit(**_OPTIONS, cache=True)(function))
    except RuntimeError:  # no folder to write to, neither the package's nor the user's
        return cast("Function", njit(**_OPTIONS)(function))
