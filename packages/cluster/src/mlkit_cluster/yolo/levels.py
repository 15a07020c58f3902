"""Levels of a feature pyramid: their names, and the maps that enter a head's branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def level_name(stride: int) -> str:
    """Return p3 for stride 8 = 2^3; s12 where the stride is no power of two."""
    return f"p{stride.bit_length() - 1}" if stride & (stride - 1) == 0 else f"s{stride}"


def entering_maps(branches: nn.ModuleList, run: Callable[[], object]) -> list[Tensor]:
    """Return the first tensor that enters each branch while `run` runs, in the branches' order.

    For heads that do not give their inputs. Hooks are removed, and nothing is kept.
    """
    caught: dict[int, Tensor] = {}

    def catch(index: int) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, args: Any) -> None:  # noqa: ANN401  # torch's
            caught.setdefault(index, args[0])

        return hook

    handles = [b.register_forward_pre_hook(catch(i)) for i, b in enumerate(branches)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [caught.pop(index) for index in range(len(handles))]
