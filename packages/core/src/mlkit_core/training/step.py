"""What one micro-step computes: model and losses under one roof, so that DDP wraps both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import TrainingError
from mlkit_core.tensors import to_float32
from mlkit_core.types import Batch, ModelOutput, Ratio, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.build import Losses
    from mlkit_core.interfaces import Loss
    from mlkit_core.model import Model


@dataclass(frozen=True)
class LossPart:
    """One part of one loss, summed over a micro-step's batches.

    Args:
        label: The loss.
        sum: Scalar with gradient.
        count: What a `Ratio` counts; None where the part is a mean over rows.
    """

    label: str
    sum: Tensor
    count: Tensor | None


class StepModule(nn.Module):
    """Model and losses: a list of batches in, the losses' parts out."""

    def __init__(self, model: Model, losses: Losses) -> None:
        super().__init__()
        self.model, self.losses = model, losses.modules
        self.kinds, self.weights = losses.kinds, losses.weights

    def forward(self, batches: Sequence[Batch], step: Step) -> dict[str, LossPart]:
        """Return the parts by `label.part`; a batch runs only the losses of its kind."""
        parts: dict[str, LossPart] = {}
        device = next(self.parameters()).device.type
        for batch in batches:
            output: ModelOutput = self.model(batch, step=step)
            with torch.autocast(device, enabled=False):
                self._add(parts, to_float32(output), batch, step.for_batch())
        return parts

    def _add(
        self, parts: dict[str, LossPart], output: ModelOutput, batch: Batch, step: Step
    ) -> None:
        for label, loss in self.losses.items():
            if batch.kind not in self.kinds[label]:
                continue
            for name, value in _call(label, loss, output, batch, step).items():  # pyright: ignore[reportArgumentType]
                key = f"{label}.{name}"
                part = _as_part(label, value, len(batch.meta))
                parts[key] = part if key not in parts else _sum(parts[key], part)

    def rows(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Return for each loss how many rows its batches have: what plain means are divided by."""
        return {
            label: float(sum(len(b.meta) for b in batches if b.kind in kinds))
            for label, kinds in self.kinds.items()
            if any(b.kind in kinds for b in batches)
        }

    def total(
        self, parts: Mapping[str, LossPart], divisors: Mapping[str, float | Tensor], ranks: int
    ) -> Tensor:
        """Return the scalar whose gradient, averaged over ranks, is that of the global loss.

        Args:
            parts: Of this micro-step.
            divisors: Label to rows, and `label.part` to count, over all ranks and micro-steps.
            ranks: Processes.
        """
        terms: list[Tensor] = []
        for key, part in parts.items():
            divisor = divisors[part.label if part.count is None else key]
            terms.append(part.sum * (self.weights[part.label] * ranks) * _inverse(divisor, part.sum))
        return torch.stack(terms).sum()


def _call(
    label: str, loss: Loss, output: ModelOutput, batch: Batch, step: Step
) -> Mapping[str, Tensor | Ratio]:
    if loss.output_type is not None and not isinstance(output.head, loss.output_type):
        raise TrainingError(
            f"losses.{label}: needs {loss.output_type.__name__}, got {type(output.head).__name__}"
        )
    if not isinstance(batch.target, loss.target_type):
        raise TrainingError(
            f"losses.{label}: needs {loss.target_type.__name__} on kind {batch.kind!r}, "
            f"got {type(batch.target).__name__}"
        )
    given = loss(output, batch, step)
    if not given:
        raise TrainingError(f"losses.{label}: gave no part for a batch of kind {batch.kind!r}")
    return given


def _as_part(label: str, value: Tensor | Ratio, rows: int) -> LossPart:
    if isinstance(value, Ratio):
        count = torch.as_tensor(value.count, dtype=torch.float32, device=value.sum.device)
        return LossPart(label, value.sum, count.detach())
    return LossPart(label, value * rows, None)


def _sum(a: LossPart, b: LossPart) -> LossPart:
    if a.count is None or b.count is None:
        return LossPart(a.label, a.sum + b.sum, None)
    return LossPart(a.label, a.sum + b.sum, a.count + b.count)


def _inverse(divisor: float | Tensor, like: Tensor) -> Tensor:
    value = torch.as_tensor(divisor, dtype=like.dtype, device=like.device)
    return torch.where(value > 0, 1 / value.clamp_min(1e-30), torch.zeros_like(value))
