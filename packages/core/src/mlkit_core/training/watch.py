"""Which loss reaches which part: gradient norms on a copy, training itself unchanged."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from mlkit_core.training.objective import StepModule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mlkit_core.training.engine import Engine
    from mlkit_core.types import Batch, Step

Table = dict[str, dict[str, float]]


def gradient_table(
    module: StepModule, batches: Sequence[Batch], step: Step, engine: Engine
) -> Table:
    """Return loss label to part to gradient norm, on a deep copy and with generators put back.

    Args:
        module: The unwrapped step module.
        batches: Of one micro-step.
        step: Where training stands.
        engine: For autocast.
    """
    devices = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        twin = copy.deepcopy(module)
        with engine.autocast():
            parts = StepModule.forward(twin, batches, step)
        named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
        return {label: _norms(_loss(twin, parts, label), named) for label in twin.weights}


def _loss(twin: StepModule, parts: Mapping[str, object], label: str) -> Tensor | None:
    sums = [p.sum for p in parts.values() if p.label == label and p.sum.requires_grad]  # pyright: ignore
    return torch.stack(sums).sum() * twin.weights[label] if sums else None


def _norms(loss: Tensor | None, named: Mapping[str, Tensor]) -> dict[str, float]:
    squares: dict[str, float] = dict.fromkeys(map(_part, named), 0.0)
    if loss is not None:
        gradients = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                squares[_part(name)] += float(gradient.float().square().sum())
    return {part: square**0.5 for part, square in squares.items()}


def _part(name: str) -> str:
    """Return `encoders.image` of `model.encoders.image.conv1.weight`, `head` of `model.head.…`."""
    segments = name.removeprefix("model.").split(".")
    return segments[0] if segments[0] == "head" else ".".join(segments[:2])


def as_text(table: Table) -> str:
    """Return the table with one row for each part and one column for each loss."""
    parts = list(dict.fromkeys(part for row in table.values() for part in row))
    width = max((len(part) for part in parts), default=4)
    lines = [" " * width + "".join(f"  {label:>12}" for label in table)]
    lines += [
        f"{part:<{width}}" + "".join(f"  {table[label].get(part, 0.0):>12.3e}" for label in table)
        for part in parts
    ]
    return "\n".join(lines)
