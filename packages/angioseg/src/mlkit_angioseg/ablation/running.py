"""Trains and evaluates the variants of an ablation, one after another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mlkit_angioseg.ablation.angles import evaluate_told, frames_of, told_angles
from mlkit_angioseg.ablation.heads import parameter_count
from mlkit_angioseg.ablation.variants import BASE, Variant, run_name, write_run_file
from mlkit_core.config import dump_resolved
from mlkit_core.config.changes import changed_keys
from mlkit_core.errors import BuildError, MlkitError, RunFolderError
from mlkit_core.run import Run, load_run
from mlkit_core.training import checkpoint
from mlkit_core.training.journal import LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlkit_angioseg.ablation.comparing import Row
    from mlkit_core.config.frame import RunConfig
    from mlkit_core.training.evaluation import Evaluation

METRIC = "mask-overlap"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of an ablation.

    Args:
        out: Folder of the variants' runs and of the tables.
        variants: Beside the base.
        split: What is evaluated.
        seeds: Runs of each variant, with seeds that count up from the run file's.
        scores: Columns of the metric's rows that are compared.
    """

    out: Path
    variants: Sequence[Variant]
    split: str = "val"
    seeds: int = 1
    scores: tuple[str, ...] = ("dice", "cldice")


@dataclass(kw_only=True)
class Outcome:
    """What became of a variant.

    Args:
        variant: Which.
        status: "done", "same as base", "failed" or "not reached".
        message: Why it failed.
        folders: Of its runs.
        changed: Keys of the run file that differ from the base's.
        rows: For each seed, the metric's rows of the images.
        metrics: For each seed, the metric's values.
        parameters: "head", "trained" and "all", of the model without its losses.
        weights: Encoder's part to where its weights came from.
        donors: For each seed, cine to the cine whose angles it was told.
    """

    variant: Variant
    status: str = "not reached"
    message: str = ""
    folders: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    rows: list[list[Row]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    donors: list[dict[str, str]] = field(default_factory=list)


class Ablation:
    """An ablation of a base.

    Args:
        base: A run file's run, which is trained into `out`; or a run folder's, which is taken.
        wish: What is asked.
        is_given: Whether the base's folder holds a trained run.
    """

    def __init__(self, base: Run, wish: Wish, *, is_given: bool = False) -> None:
        self.base, self.wish, self.is_given = base, wish, is_given
        self.outcomes = [Outcome(variant=variant) for variant in (BASE, *wish.variants)]
        self.runs: list[Run] = []  # of the base, one for each seed
        _check(base.config)

    @property
    def folder(self) -> Path:
        """The base's run folder: that of its first seed."""
        return self.base.folder if self.is_given else self.wish.out / BASE.name

    def run(self, told: Callable[[], None]) -> None:
        """Go through base and variants; a variant that fails does not stop the others.

        Args:
            told: Called after each, to write what is known so far.

        Raises:
            MlkitError: The base cannot be trained or evaluated.
            KeyboardInterrupt: Stopped; the outcomes so far stay.
        """
        count = len(self.outcomes)
        for number, outcome in enumerate(self.outcomes, 1):
            LOG.info("ablation %d of %d: %s", number, count, outcome.variant.label)
            try:
                self._one(outcome)
            except (MlkitError, torch.OutOfMemoryError) as err:
                if outcome.variant == BASE:
                    raise
                hint = getattr(err, "hint", "")
                outcome.status, outcome.rows = "failed", []
                outcome.message = str(err) + (f" ({hint})" if hint else "")
                LOG.warning("%s failed: %s", outcome.variant.label, outcome.message)
            told()

    def _one(self, outcome: Outcome) -> None:
        if outcome.variant.axis == "angles":
            self._retold(outcome)
            return
        first = self.base.config.seed
        for seed in range(first, first + self.wish.seeds):
            run = self._run_of(outcome, seed)
            if run is None:
                self._as_base(outcome)
                return
            self._trained(outcome, run)
        outcome.status = "done"

    def _run_of(self, outcome: Outcome, seed: int) -> Run | None:
        """Return a variant's run of a seed, not yet trained; None where it is the base's."""
        variant, config = outcome.variant, self.base.config
        if variant == BASE and self.is_given and seed == config.seed:
            return self.base
        folder = self.wish.out / "run-files"
        made, is_base = write_run_file(config, variant, seed, folder)
        if is_base and variant != BASE:
            (folder / f"{run_name(variant, seed, config.seed)}.yaml").unlink()
            return None
        keys = changed_keys(dump_resolved(config), dump_resolved(made))
        outcome.changed = [key for key in keys if key not in ("name", "seed")]
        return Run(made, self.wish.out / run_name(variant, seed, config.seed))

    def _trained(self, outcome: Outcome, run: Run) -> None:
        if run is not self.base:
            _fit(run)
        if outcome.variant == BASE:
            self.runs.append(run)
        found = run.evaluate(self.wish.split, "best")
        stage = run.stage_of("best")[0]
        learned = sum(
            p.numel()
            for name, p in stage.named.items()
            if p.requires_grad and not name.startswith("losses.")
        )
        every = parameter_count(stage.model) - parameter_count(stage.model.losses)
        head = parameter_count(stage.model.head)
        outcome.parameters = {"head": head, "trained": learned, "all": every}
        outcome.weights = dict(stage.weights)
        self._note(outcome, run, found)

    def _note(self, outcome: Outcome, run: Run, found: Evaluation) -> None:
        rows = [row for row in found.rows if all(score in row for score in self.wish.scores)]
        if not rows:
            asked = ", ".join(self.wish.scores)
            raise BuildError(f"{run.folder}: split {self.wish.split!r} gave no rows with {asked}")
        start = f"{METRIC}."
        outcome.folders.append(str(run.folder))
        outcome.rows.append(rows)
        outcome.metrics.append(
            {k.removeprefix(start): v for k, v in found.metrics.items() if k.startswith(start)}
        )

    def _retold(self, outcome: Outcome) -> None:
        """Evaluate the base's weights with other angles; nothing is trained or written there."""
        if outcome.variant.value == "true":
            self._as_base(outcome)
            return
        for run in self.runs:
            stage, engine, _ = run.ready("best")
            frames = frames_of(stage, self.wish.split)
            told, donors = told_angles(outcome.variant.value, frames, run.config.seed)
            self._note(outcome, run, evaluate_told(stage, engine, self.wish.split, told))
            outcome.donors += [donors] if donors else []
        base = self.outcomes[0]
        outcome.parameters, outcome.weights = dict(base.parameters), dict(base.weights)
        outcome.status = "done"

    def _as_base(self, outcome: Outcome) -> None:
        base = self.outcomes[0]
        outcome.status, outcome.rows, outcome.metrics = "same as base", base.rows, base.metrics
        outcome.parameters, outcome.weights = base.parameters, base.weights
        outcome.folders = base.folders


def open_base(path: Path, overrides: Sequence[str], max_steps: int | None) -> tuple[Run, bool]:
    """Return the base, and whether it is a trained run's folder.

    Args:
        path: A run file, or the folder of a run.
        overrides: `key.path=value` for the base and all variants.
        max_steps: Of each stage.

    Raises:
        InputError: The run file is not valid, or overrides are given to a trained run.
    """
    given = [*overrides, *([f"trainer.max_steps={max_steps}"] if max_steps is not None else [])]
    if path.is_dir() and given:
        raise RunFolderError(
            f"{path}: is trained as it is, and cannot take {given[0]!r}",
            hint=f"give its run file: {path / 'run.yaml'}",
        )
    return load_run(path, given), path.is_dir()


def _fit(run: Run) -> None:
    """Train a run, go on with it, or leave it where it is finished."""
    file = run.folder / "run.yaml"
    if file.is_file() and _is_finished(run.folder):
        changed = changed_keys(file.read_text(encoding="utf-8"), dump_resolved(run.config))
        if changed:
            raise RunFolderError(
                f"{run.folder}: changed since it was trained: {', '.join(changed)}",
                hint="choose another --out, or remove that folder",
            )
        LOG.info("%s: finished before, taken as it is", run.folder)
        return
    if run.fit(resume=file.is_file()).status == "interrupted":
        raise KeyboardInterrupt


def _is_finished(folder: Path) -> bool:
    path = folder / "environment.json"
    if not path.is_file() or not (folder / "last" / checkpoint.MODEL).is_file():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("status") == "finished"


def _check(config: RunConfig) -> None:
    for stage in config.stages:
        if stage.model is None or stage.data is None or stage.trainer is None:
            raise BuildError("ablate: the run file needs data, a model and a trainer")
        if METRIC not in [part.name for part in stage.metrics]:
            raise BuildError(
                f"metrics: ablate compares the images of {METRIC!r}, which the run file lacks",
                hint=f"say metrics: [{{name: {METRIC}}}]",
            )
