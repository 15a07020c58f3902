"""A moving average of the weights, which is what validates and is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class WeightAverage:
    """Exponential moving average of every floating-point parameter and buffer.

    Args:
        tensors: Gives the live tensors by checkpoint name.
        decay: Of the average, 0..1; smaller in the first steps, `(1 + steps) / (10 + steps)`.
            None switches the average off.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]], decay: float | None) -> None:
        self._tensors, self._decay = tensors, decay
        self.values = {n: t.detach().clone() for n, t in self._live().items()} if decay else {}

    def _live(self) -> dict[str, Tensor]:
        return {n: t for n, t in self._tensors().items() if t.is_floating_point()}

    def update(self, steps: int) -> None:
        """Move the average towards the live weights, after `steps` optimiser steps."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + steps) / (10 + steps))
        live = [tensor.detach() for tensor in self._live().values()]
        torch._foreach_lerp_(list(self.values.values()), live, 1 - decay)

    def raw(self) -> dict[str, Tensor]:
        """Return copies of the live weights, for `put`; nothing where there is no average."""
        return {n: t.detach().clone() for n, t in self._live().items()} if self.values else {}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the live weights."""
        with torch.no_grad():
            for name, tensor in self._live().items() if values else ():
                tensor.copy_(values[name])

    def restore(self, raw: Mapping[str, Tensor]) -> None:
        """Take the live weights, loaded from a checkpoint, for the average, and put the raw ones back."""
        with torch.no_grad():
            for name, tensor in self._live().items() if self.values else ():
                self.values[name].copy_(tensor)
        self.put(raw if self.values else {})
