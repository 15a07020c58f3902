"""The global loss and its gradients: over batches of several kinds, micro-steps and ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import TrainingError
from mlkit_core.tensors import to_float32
from mlkit_core.types import Batch, ModelOutput, Ratio, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlkit_core.build import Losses
    from mlkit_core.interfaces import Loss
    from mlkit_core.model import Model
    from mlkit_core.training.engine import Engine


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
        self.model = model
        self.kinds, self.weights = losses.kinds, losses.weights

    def forward(self, batches: Sequence[Batch], step: Step) -> dict[str, LossPart]:
        """Return the parts by `label.part`; a batch runs only the losses of its kind."""
        parts: dict[str, LossPart] = {}
        device = next(self.parameters()).device.type
        for batch in batches:
            own = step.for_batch()  # what one batch computes once must not serve the next
            output: ModelOutput = self.model(batch, step=own)
            with torch.autocast(device, enabled=False):
                self._add(parts, to_float32(output), batch, own)
        return parts

    def _add(
        self, parts: dict[str, LossPart], output: ModelOutput, batch: Batch, step: Step
    ) -> None:
        for label, loss in self.model.losses.items():
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
            terms.append(
                part.sum * (self.weights[part.label] * ranks) * _inverse(divisor, part.sum)
            )
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


class Objective:
    """Forward and backward of one optimiser step.

    A part that is a plain mean is divided by the rows of all ranks and micro-steps, a `Ratio` by
    its counts over all of them; so the same global batch gives the same gradient however it is cut.

    Args:
        module: Model and losses.
        wrapped: The same, ready for several ranks.
        engine: This process.
    """

    def __init__(self, module: StepModule, wrapped: nn.Module, engine: Engine) -> None:
        self._module, self._wrapped, self._engine = module, wrapped, engine
        self._ratios: dict[str, bool] = {}  # label to whether it gives a Ratio, once seen

    def gradients(
        self, loaded: Sequence[Sequence[Batch]], step_for: Callable[[int], Step]
    ) -> dict[str, float]:
        """Leave the gradients in the parameters; return "loss" and every part, over all ranks.

        Args:
            loaded: For each micro-step its batches, on the device.
            step_for: Seeds all generators for a micro-step and returns where training stands.

        Raises:
            TrainingError: A value is not finite (all ranks raise), or no loss reaches a parameter.
        """
        ahead = self._divisors_ahead(loaded, step_for) if len(loaded) > 1 else None
        sums: dict[str, Tensor] = {}
        divisors: dict[str, float | Tensor] = {}
        for turn, batches in enumerate(loaded):
            with self._engine.no_sync(self._wrapped, last=turn == len(loaded) - 1):
                parts: dict[str, LossPart] = self._wrapped(batches, step_for(turn))
                given = ahead if ahead is not None else self._divisors(batches, parts)
                _check_live(parts)
                self._engine.backward(self._module.total(parts, given, self._engine.ranks))
            for key, part in parts.items():
                divisors[key] = given[part.label if part.count is None else key]
                sums[key] = part.sum.detach() + sums.get(key, 0.0)
        return self._reduced(sums, divisors)

    def _divisors(
        self, batches: Sequence[Batch], parts: dict[str, LossPart]
    ) -> dict[str, float | Tensor]:
        """Return divisors over all ranks, where there is one micro-step."""
        local: dict[str, float | Tensor] = dict(self._module.rows(batches))
        local |= {key: part.count for key, part in parts.items() if part.count is not None}
        if self._engine.ranks == 1:
            return local
        return dict(self._engine.gather_sums({key: float(value) for key, value in local.items()}))

    def _divisors_ahead(
        self, loaded: Sequence[Sequence[Batch]], step_for: Callable[[int], Step]
    ) -> dict[str, float | Tensor]:
        """Return divisors over all micro-steps and ranks, before the first backward pass.

        Rows are known from the batches. A `Ratio`'s count is known only after a forward pass, so
        losses that give one cost a pass without gradient, with the same seeds and buffers put back.
        """
        module, engine = self._module, self._engine
        rows = engine.gather_sums(module.rows([b for batches in loaded for b in batches]))
        if all(self._ratios.get(label) is False for label in rows):
            return dict(rows)
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        counts: dict[str, float] = {}
        seen: dict[str, float] = {}
        with torch.no_grad():
            for turn, batches in enumerate(loaded):
                for key, part in module(batches, step_for(turn)).items():
                    seen[part.label] = seen.get(part.label, 0.0) + float(part.count is not None)
                    if part.count is not None:
                        counts[key] = counts.get(key, 0.0) + float(part.count)
            for buffer, before in buffers:
                buffer.copy_(before)
        for label, ratios in engine.gather_sums(seen).items():
            self._ratios[label] = self._ratios.get(label, False) or ratios > 0
        return dict(rows) | dict(engine.gather_sums(counts))

    def _reduced(
        self, sums: dict[str, Tensor], divisors: dict[str, float | Tensor]
    ) -> dict[str, float]:
        """Return global values; where one is not finite all ranks raise alike."""
        shares = [
            s / torch.as_tensor(divisors[k], device=s.device).clamp_min(1e-30)
            for k, s in sums.items()
        ]
        local: list[float] = torch.stack(shares).tolist()
        values = self._engine.gather_sums(dict(zip(sums, local, strict=True)))
        broken = {key: value for key, value in values.items() if not math.isfinite(value)}
        if broken:
            raise TrainingError(
                "not finite: " + ", ".join(f"losses.{k} is {v}" for k, v in broken.items()),
                hint="lower the learning rate, or look at the data of this step",
            )
        weights = self._module.weights
        total = sum(value * weights[key.partition(".")[0]] for key, value in values.items())
        return {"loss": total, **values}


def _check_live(parts: dict[str, LossPart]) -> None:
    if not any(part.sum.requires_grad for part in parts.values()):
        raise TrainingError(
            f"losses {', '.join(parts)}: none depends on a trainable parameter",
            hint="look at `freeze` and at which loss reads which role",
        )
