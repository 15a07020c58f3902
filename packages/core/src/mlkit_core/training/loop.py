"""The one step loop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from mlkit_core.build import build_metrics
from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.tensors import to_device
from mlkit_core.training import cache, checkpoint
from mlkit_core.training.evaluation import evaluate
from mlkit_core.training.journal import LOG
from mlkit_core.training.objective import Objective, StepModule
from mlkit_core.training.optim import (
    WeightAverage,
    embedding_names,
    make_optimizer,
    parameter_groups,
    rate_factor,
    set_train_mode,
)
from mlkit_core.training.sampling import Deal, derive, seed_all, training_batches
from mlkit_core.training.watch import as_text, gradient_table
from mlkit_core.types import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.training.config import SupervisedConfig
    from mlkit_core.training.engine import Engine
    from mlkit_core.training.stages import Stage
    from mlkit_core.training.supervised import Fit
    from mlkit_core.types import Batch


@dataclass
class Position:
    """Where a run stands: what a resume needs beside the tensors.

    Args:
        stage: Index of the stage.
        epoch: Of this stage, in progress.
        unit_step: Optimiser steps done in this epoch.
        stage_step: Optimiser steps done in this stage.
        step: Optimiser steps done over all stages.
        done: Whether this stage is finished.
        best: Name of the best checkpoint, "" before the first one.
        best_value: The monitored value there, None before the first validation of a stage.
        window: Loss parts since the last line of `metrics.jsonl`: sum and count of each.
        metrics: Of the last validation.
    """

    stage: int = 0
    epoch: int = 0
    unit_step: int = 0
    stage_step: int = 0
    step: int = 0
    done: bool = False
    best: str = ""
    best_value: float | None = None
    window: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class StageLoop:
    """Trains one stage from where `position` stands to its end, or to a stop.

    Args:
        fit: Folder, seed, journal and wishes of the run.
        engine: This process, at the stage's precision.
        stage: Built or restored.
        options: Of the stage's trainer.
        position: Moved on as training goes.
    """

    def __init__(
        self, fit: Fit, engine: Engine, stage: Stage, options: SupervisedConfig, position: Position
    ) -> None:
        self.fit, self.engine, self.stage = fit, engine, stage
        self.options, self.position = options, position
        self.name, config = stage.config.name, stage.config.optimizer
        self._check_monitor()
        self.deal = Deal(options.batch_size, engine.ranks, options.accumulate)
        stage.model.to(engine.device)
        self.caches = cache.open_caches(fit.folder.parent / ".cache", stage, options, engine)
        self.module = StepModule(stage.model, stage.losses)
        set_train_mode(self.module)
        groups = parameter_groups(stage.named, config, embedding_names(stage.model))
        self.optimizer = make_optimizer(groups, config)
        self.wrapped, self.stepper = engine.wrap(self.module, self.optimizer)
        self.objective = Objective(self.module, self.wrapped, engine)
        self.average = WeightAverage(stage.model.state_dict, options.ema)
        steps = self.deal.steps(len(self._units(0))) * options.epochs
        self.iterations = min(steps, options.max_steps or steps)
        fresh = position.stage_step == 0
        self._silent = {n for n, p in stage.named.items() if p.requires_grad and fresh}

    def _check_monitor(self) -> None:
        monitor, names = self.options.monitor, [m.name for m in self.stage.config.metrics]
        if monitor is not None and monitor.partition(".")[0] not in names:
            have = ", ".join(names) or "none"
            raise BuildError(
                f"trainer.monitor: {monitor!r} is no value of the metrics; there are {have}"
            )

    def run(self) -> bool:
        """Train to the end; return False where a signal stopped it first."""
        position, options = self.position, self.options
        while position.epoch < options.epochs and not position.done:
            batches = training_batches(
                self.stage.data,
                self._units(position.epoch),
                self.deal,
                rank=self.engine.rank,
                start=position.unit_step,
                workers=options.workers,
            )
            for micro_steps in islice(batches, self.iterations - position.stage_step):
                self._step(micro_steps)
                stop = any(self.engine.gather(self.fit.stopping()))
                every = options.checkpoint_every
                if stop or (every and position.stage_step % every == 0):
                    self._save()
                if stop:
                    return False
            self._end_epoch()
        return True

    def _units(self, epoch: int) -> Any:  # noqa: ANN401  # the data's own sequence
        seed = derive(self.fit.config.seed, self.position.stage, "units", epoch)
        return self.stage.data.units("train", seed)

    def _step(self, micro_steps: Sequence[Sequence[Batch]]) -> None:
        """Run one optimiser step over this rank's micro-steps."""
        began, position, config = time.perf_counter(), self.position, self.stage.config.optimizer
        factor = rate_factor(config, position.stage_step, self.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        loaded = [[self._prepare(batch) for batch in batches] for batches in micro_steps]
        self._watch(loaded)
        try:
            values = self.objective.gradients(loaded, self._step_for)
            live = [p for p in self.module.parameters() if p.requires_grad]
            norm = float(self.engine.gradient_norm(live, self.options.clip))
            if not math.isfinite(norm) and self.options.precision != "fp16":
                raise TrainingError(f"not finite: the gradient norm is {norm}")
        except TrainingError as err:
            kinds = ", ".join(sorted({b.kind for batches in loaded for b in batches}))
            where = f"stage {self.name!r}, epoch {position.epoch}, step {position.step + 1}"
            raise TrainingError(f"{where} (kinds {kinds}): {err}", hint=err.hint) from err
        if self._silent and position.epoch == 0:
            self._silent -= {n for n, p in self.stage.named.items() if p.grad is not None}
        self.stepper.step()
        self.stepper.zero_grad()
        position.unit_step += 1
        position.stage_step += 1
        position.step += 1
        self.average.update(position.stage_step)
        self._report({**values, "grad_norm": norm}, factor, time.perf_counter() - began)

    def _prepare(self, batch: Batch) -> Batch:
        return to_device(cache.with_features(self.caches, batch), self.engine.device)

    def _step_for(self, turn: int) -> Step:
        position, micro = self.position, self.deal.micro_step(self.engine.rank, turn)
        seed = derive(self.fit.config.seed, position.stage, "step", position.stage_step, micro)
        return Step(position.stage_step, self.iterations, seed_all(seed))

    def _watch(self, loaded: Sequence[Sequence[Batch]]) -> None:
        every = self.fit.wish.watch_grads
        if every and self.position.stage_step % every == 0 and self.engine.is_main:
            table = gradient_table(self.module, loaded[0], self._step_for(0), self.engine)
            LOG.info("gradient norms, part by loss:\n%s", as_text(table))
            self._write("gradients", table=table)

    def _write(self, kind: str, **values: object) -> None:
        position = self.position
        line = {"kind": kind, "stage": self.name, "epoch": position.epoch, "step": position.step}
        self.fit.journal.write({**line, **values})

    def _report(self, values: dict[str, float], factor: float, seconds: float) -> None:
        position, options = self.position, self.options
        for key, value in values.items():
            total, count = position.window.get(key, (0.0, 0))
            position.window[key] = [total + value, count + 1]
        done, every = position.stage_step, options.log_every
        due = done % every == 0 or done == self.iterations
        note = f"loss {values['loss']:.4f}, {options.batch_size / seconds:.1f} units/s"
        stage = f"{self.name} epoch {position.epoch + 1}/{options.epochs}"
        self.fit.watcher.show(stage, done, self.iterations, note, line=due)
        if due:
            means = {key: total / count for key, (total, count) in position.window.items()}
            self._write("train", lr=self.stage.config.optimizer.lr * factor, **means)
            position.window = {}

    def _end_epoch(self) -> None:
        position, options = self.position, self.options
        if position.epoch == 0 and self._silent:
            names = ", ".join(sorted(self._silent)[:8])
            LOG.warning("parameters without gradient over the first epoch: %s", names)
        position.epoch += 1
        position.unit_step = 0
        position.done = position.epoch == options.epochs or position.stage_step >= self.iterations
        name, every = checkpoint.step_name(position.step, epoch_end=True), options.validate_every
        if self.stage.config.metrics and every and (position.done or position.epoch % every == 0):
            position.metrics = self.validate()
            self._judge(name)
        elif not position.best or options.monitor is None:
            position.best = name
        self._save()

    def _judge(self, name: str) -> None:
        """Take a checkpoint for the best one where its monitored value is the best so far."""
        position, monitor = self.position, self.options.monitor
        if monitor is not None and monitor not in position.metrics:
            have = ", ".join(position.metrics)
            raise TrainingError(f"trainer.monitor: no value {monitor!r}; there are {have}")
        value = position.metrics[monitor] if monitor is not None else None
        best, sign = position.best_value, 1 if self.options.monitor_mode == "max" else -1
        if value is None or best is None or math.isnan(best) or sign * value > sign * best:
            position.best, position.best_value = name, value

    def validate(self) -> dict[str, float]:
        """Return the validation metrics of the current (averaged) weights; write their line."""
        stage, raw = self.stage, self.average.raw()
        self.average.put(self.average.values)
        found = evaluate(
            stage.model,
            stage.data,
            lambda: build_metrics(stage.config.metrics, len(stage.classes), stage.classes),
            "val",
            self.engine,
            prepare=self._prepare,
        ).metrics
        self.average.put(raw)
        self._write("val", **found)
        text = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
        LOG.info("%s epoch %d: %s", self.name, self.position.epoch, text)
        return found

    def _save(self) -> None:
        """Write a checkpoint on rank 0, point `last` and `best` at it, remove the others."""
        if self.engine.is_main:
            position, folder = self.position, self.fit.folder
            state = {
                **self.fit.record,
                "position": asdict(position),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.engine.scaler_state,
                "journal": self.fit.journal.length(),
                "raw": to_device(self.average.raw(), torch.device("cpu")),
            }
            name = checkpoint.step_name(position.step, epoch_end=position.unit_step == 0)
            target, info = folder / "checkpoints" / name, self.stage.info(position.step)
            checkpoint.write(
                target, info, self.stage.model.state_dict() | self.average.values, state
            )
            checkpoint.link(folder, "last", name)
            if position.best:
                checkpoint.link(folder, "best", position.best)
            checkpoint.prune(folder, {name, position.best})
        self.engine.wait()

    def kept(self) -> dict[str, torch.Tensor]:
        """Return what the next stage carries on, on the CPU: averages where there are any."""
        tensors = {
            n: t.detach() for n, t in self.stage.model.state_dict().items()
        } | self.average.values
        return {name: tensor.cpu().clone() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put optimiser, scaler and averaged weights back where a checkpoint left them."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.engine.load_scaler(state["scaler"])
        self.average.restore(to_device(state["raw"], self.engine.device))
