"""Processes, precision and devices: all that mlkit asks of accelerate, in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, gather_object

from mlkit_core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

Value = TypeVar("Value")


class Engine:
    """One process of a run.

    Args:
        precision: "fp32", "bf16" or "fp16".

    Raises:
        TrainingError: The device cannot compute in that precision.
    """

    def __init__(self, precision: str = "fp32") -> None:
        AcceleratorState._reset_state()  # a process may train twice, at two precisions
        GradientState._reset_state()
        mixed = "no" if precision == "fp32" else precision
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        try:
            # Without `cpu`, accelerate takes several CPU processes for as many runs of one.
            self._accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),
                mixed_precision=mixed,
                kwargs_handlers=[unused],
            )
        except ValueError as err:
            raise TrainingError(f"trainer.precision: {precision!r} on this device: {err}") from err
        self.rank: int = self._accelerator.process_index
        self.ranks: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Return module and optimiser ready for this device, precision and number of ranks."""
        wrapped = self._accelerator.prepare_model(module)
        return wrapped, self._accelerator.prepare_optimizer(optimizer)

    def free(self) -> None:
        """Forget what was wrapped, before the next stage wraps anew."""
        self._accelerator.free_memory()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that evaluation's forward passes run under."""
        return self._accelerator.autocast()

    def no_sync(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-step; gradients meet in the last one only."""
        return nullcontext() if last or self.ranks == 1 else self._accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass, scaled for fp16."""
        self._accelerator.backward(loss)

    def gradient_norm(self, parameters: Iterable[Tensor], clip: float | None) -> Tensor:
        """Clip the gradients in place and return their norm before it."""
        limit = clip if clip is not None else float("inf")
        return torch.as_tensor(self._accelerator.clip_grad_norm_(list(parameters), limit))

    @property
    def scaler_state(self) -> dict[str, Any] | None:
        """State of the fp16 gradient scaler, None without one."""
        scaler = self._accelerator.scaler
        return dict(scaler.state_dict()) if scaler is not None else None

    def load_scaler(self, state: dict[str, Any] | None) -> None:
        """Restore the fp16 gradient scaler."""
        if state is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)

    def gather(self, value: Value) -> list[Value]:
        """Return every rank's value, in rank order; all ranks must call it."""
        return [value] if self.ranks == 1 else list(gather_object([value]))

    def gather_sums(self, values: dict[str, float]) -> dict[str, float]:
        """Return sums by key over ranks; a rank may lack keys that others have."""
        total: dict[str, float] = {}
        for given in self.gather(values):
            for key, value in given.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def wait(self) -> None:
        """Return when every rank has come here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group, if this process is in one."""
        if self.ranks > 1:
            self._accelerator.end_training()
