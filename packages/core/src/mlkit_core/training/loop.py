"""The one step loop."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mlkit_core.build import build_metrics
from mlkit_core.errors import TrainingError
from mlkit_core.tensors import to_device
from mlkit_core.training import cache, checkpoint
from mlkit_core.training.average import WeightAverage
from mlkit_core.training.evaluation import evaluate
from mlkit_core.training.journal import LOG
from mlkit_core.training.objective import Objective
from mlkit_core.training.parts import parameter_groups, set_train_mode
from mlkit_core.training.sampling import Deal, derive, seed_all, training_batches
from mlkit_core.training.schedule import make_optimizer, rate_factor
from mlkit_core.training.step import StepModule
from mlkit_core.training.watch import as_text, gradient_table
from mlkit_core.types import Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlkit_core.training.config import SupervisedConfig
    from mlkit_core.training.position import Position, Setting
    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Batch


class StageLoop:
    """Trains one stage from where `position` stands to its end, or to a stop."""

    def __init__(
        self, stage: Stage, options: SupervisedConfig, setting: Setting, position: Position
    ) -> None:
        self.stage, self.options, self.setting, self.position = stage, options, setting, position
        self.engine = setting.engine
        self.deal = Deal(options.batch_size, self.engine.ranks, options.accumulate)
        caches = cache.check_cacheable(stage)
        stage.model.to(self.engine.device)
        stage.losses.modules.to(self.engine.device)
        root = setting.folder.parent / ".cache"
        self.caches = {
            role: cache.FeatureCache(root, stage, role, options.precision) for role in caches
        }
        cache.bind(stage, self.caches, skip=False)
        if self.caches:
            cache.fill(self.caches, stage, self.engine)
        self.module = StepModule(stage.model, stage.losses)
        set_train_mode(self.module)
        groups = parameter_groups(stage.named, stage.config.optimizer)
        self.optimizer = make_optimizer(groups, stage.config.optimizer)
        self.wrapped, self.stepper = self.engine.wrap(self.module, self.optimizer)
        self.objective = Objective(self.module, self.wrapped, self.engine)
        self.average = WeightAverage(stage.tensors, options.ema)
        self._units = stage.data.units("train", self._unit_seed(0))
        self.iterations = self.deal.steps(len(self._units)) * options.epochs
        fresh = position.epoch == 0 and position.unit_step == 0
        self._silent = {n for n, p in stage.named.items() if p.requires_grad and fresh}

    def run(self) -> bool:
        """Train to the end; return False where a signal stopped it first."""
        position = self.position
        while position.epoch < self.options.epochs:
            for micro_steps in self._epoch_batches():
                self._step(micro_steps)
                if self._should_stop():
                    self._save()
                    return False
                every = self.options.checkpoint_every
                if every and position.stage_step % every == 0:
                    self._save()
            self._end_epoch()
        return True

    def _epoch_batches(self) -> Iterator[list[list[Batch]]]:
        epoch = self.position.epoch
        units = self._units if epoch == 0 else self.stage.data.units("train", self._unit_seed(epoch))
        return training_batches(
            self.stage.data,
            units,
            self.deal,
            rank=self.engine.rank,
            start=self.position.unit_step,
            workers=self.options.workers,
        )

    def _unit_seed(self, epoch: int) -> int:
        return derive(self.setting.seed, self.position.stage, "units", epoch)

    def _prepare(self, batch: Batch) -> Batch:
        return cache.with_features(self.caches, batch)

    def _step(self, micro_steps: Sequence[Sequence[Batch]]) -> None:
        """Run one optimiser step over this rank's micro-steps."""
        began, position, engine = time.perf_counter(), self.position, self.engine
        config = self.stage.config.optimizer
        factor = rate_factor(config, position.stage_step, self.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        loaded = [
            [to_device(self._prepare(b), engine.device) for b in batches] for batches in micro_steps
        ]
        self._watch(loaded)
        try:
            values = self.objective.gradients(loaded, self._step_for)
        except TrainingError as err:
            where = f"stage {self.stage.config.name!r}, epoch {position.epoch}, step {position.step + 1}"
            kinds = ", ".join(sorted({b.kind for batches in loaded for b in batches}))
            raise TrainingError(f"{where} (kinds {kinds}): {err}", hint=err.hint) from err
        norm = engine.gradient_norm(
            [p for p in self.module.parameters() if p.requires_grad], self.options.clip
        )
        if not torch.isfinite(norm) and self.options.precision != "fp16":
            raise TrainingError(f"stage {self.stage.config.name!r}: gradient norm is {float(norm)}")
        if self._silent and position.epoch == 0:
            named = self.stage.named
            self._silent -= {n for n in self._silent if named[n].grad is not None}
        self.stepper.step()
        self.stepper.zero_grad()
        self.average.update(position.stage_step + 1)
        position.unit_step += 1
        position.stage_step += 1
        position.step += 1
        self._report(values, float(norm), factor, time.perf_counter() - began)

    def _step_for(self, turn: int) -> Step:
        position = self.position
        micro = self.deal.micro_step(self.engine.rank, turn)
        seed = derive(self.setting.seed, position.stage, "step", position.stage_step, micro)
        return Step(position.stage_step, self.iterations, seed_all(seed))

    def _watch(self, loaded: Sequence[Sequence[Batch]]) -> None:
        every, position = self.setting.watch_grads, self.position
        if not every or position.stage_step % every or not self.engine.is_main:
            return
        table = gradient_table(self.module, loaded[0], self._step_for(0), self.engine)
        LOG.info("gradient norms, part by loss:\n%s", as_text(table))
        line = {"kind": "gradients", "stage": self.stage.config.name, "step": position.step}
        self.setting.journal.write({**line, "table": table})

    def _report(self, values: dict[str, float], norm: float, factor: float, seconds: float) -> None:
        position, window = self.position, self.position.window
        for key, value in (*values.items(), ("steps", 1.0), ("grad_norm", norm)):
            window[key] = window.get(key, 0.0) + value
        due = position.stage_step % self.options.log_every == 0
        due = due or position.stage_step == self.iterations
        note = f"loss {values['loss']:.4f}, {self.options.batch_size / seconds:.1f} units/s"
        stage = f"{self.stage.config.name} epoch {position.epoch + 1}/{self.options.epochs}"
        self.setting.watcher.show(stage, position.stage_step, self.iterations, note, line=due)
        if not due:
            return
        steps = window.pop("steps")
        line = {"kind": "train", "stage": self.stage.config.name, "epoch": position.epoch}
        means = {key: value / steps for key, value in window.items()}
        rate = self.stage.config.optimizer.lr * factor
        self.setting.journal.write({**line, "step": position.step, "lr": rate, **means})
        position.window = {}

    def _end_epoch(self) -> None:
        position, options = self.position, self.options
        if position.epoch == 0 and self._silent:
            names = ", ".join(sorted(self._silent)[:8])
            LOG.warning("parameters without gradient over the first epoch: %s", names)
        position.epoch += 1
        position.unit_step = 0
        position.done = position.epoch == options.epochs
        every = options.validate_every
        name = checkpoint.step_name(position.step, epoch_end=True)
        if every and (position.done or position.epoch % every == 0) and self.stage.config.metrics:
            position.metrics = self.validate()
            value = self._monitored(position.metrics)
            if self._is_better(value):
                position.best, position.best_value = name, value
        elif not position.best or options.monitor is None:
            position.best = name
        self._save()

    def validate(self) -> dict[str, float]:
        """Return the validation metrics of the current (averaged) weights; write their line."""
        num_classes = len(self.stage.classes)

        def fresh() -> Any:  # noqa: ANN401  # metrics by name
            return build_metrics(self.stage.config.metrics, num_classes)

        raw = self.average.raw()
        self.average.put(self.average.values)
        found = evaluate(
            self.stage.model, self.stage.data, fresh(), fresh, "val", self.engine, prepare=self._prepare
        ).metrics
        self.average.put(raw)
        position = self.position
        line = {"kind": "val", "stage": self.stage.config.name, "epoch": position.epoch}
        self.setting.journal.write({**line, "step": position.step, **found})
        LOG.info("%s epoch %d: %s", self.stage.config.name, position.epoch, _say(found))
        return found

    def _monitored(self, metrics: dict[str, float]) -> float | None:
        name = self.options.monitor
        if name is not None and name not in metrics:
            raise TrainingError(f"trainer.monitor: no value {name!r}; there are {', '.join(metrics)}")
        return metrics[name] if name is not None else None

    def _is_better(self, value: float | None) -> bool:
        best = self.position.best_value
        if value is None or best is None or math.isnan(best):
            return True
        return value > best if self.options.monitor_mode == "max" else value < best

    def _should_stop(self) -> bool:
        return any(self.engine.gather(self.setting.stopping()))

    def _save(self) -> None:
        """Write a checkpoint on rank 0, point `last` and `best` at it, remove the others."""
        if self.engine.is_main:
            position, folder = self.position, self.setting.folder
            tensors = self.stage.tensors()
            state = {
                **self.setting.record,
                "position": asdict(position),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.engine.scaler_state,
                "journal": self.setting.journal.length(),
                "raw": to_device(self.average.raw(), torch.device("cpu")),
            }
            name = checkpoint.step_name(position.step, epoch_end=position.unit_step == 0)
            info = self.stage.info(position.step)
            tensors |= self.average.values
            checkpoint.write(folder / "checkpoints" / name, info, tensors, state)
            checkpoint.link(folder, "last", name)
            if position.best:
                checkpoint.link(folder, "best", position.best)
            checkpoint.prune(folder, {name, position.best})
        self.engine.wait()

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights on the CPU, nothing where there is no average."""
        return to_device(dict(self.average.values), torch.device("cpu"))

    def restore(self, state: dict[str, Any]) -> None:
        """Put optimiser, scaler and averaged weights back where a checkpoint left them."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.engine.load_scaler(state["scaler"])
        self.average.restore(to_device(state["raw"], self.engine.device))


def _say(values: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in values.items())
