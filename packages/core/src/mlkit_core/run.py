"""A run from Python: `load_run("run.yaml").fit()`; what the command line does, without it."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit_core.build import build_metrics, build_part, input_needs
from mlkit_core.config import load_config
from mlkit_core.errors import BuildError, RunFolderError
from mlkit_core.tensors import to_device
from mlkit_core.training import checkpoint
from mlkit_core.training.engine import Engine
from mlkit_core.training.evaluation import Evaluation, evaluate, evaluating, stream
from mlkit_core.training.stages import restore_stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.config.frame import Part, RunConfig, StageConfig
    from mlkit_core.interfaces import Trainer
    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Role, RunResult


@dataclass
class FitWish:
    """How `fit` was asked to behave.

    Args:
        resume: Go on where the folder stands.
        watch_grads: Steps between gradient tables; 0: none.
        allow: Keys of the run file that may have changed on resume, and "devices".
    """

    resume: bool = False
    watch_grads: int = 0
    allow: tuple[str, ...] = ()


@dataclass
class Run:
    """A run file and its folder.

    Args:
        config: Validated.
        folder: `runs/<name>`, or the folder that the run was loaded from.
    """

    config: RunConfig
    folder: Path
    wish: FitWish = field(default_factory=FitWish)

    def fit(
        self, *, resume: bool = False, watch_grads: int = 0, allow: Sequence[str] = ()
    ) -> RunResult:
        """Train all stages, or go on with `resume`.

        Raises:
            InputError: Run file, data or folder are not as they must be.
            TrainingError: Training cannot go on; checkpoints stay.
        """
        self.wish = FitWish(resume, watch_grads, tuple(allow))
        part = self.config.stages[0].trainer
        if part is None:
            raise BuildError("trainer: this run file has an extractor, nothing to fit")
        trainer: Trainer = build_part(part, "trainer")
        return trainer.fit(self)

    def stage_of(self, which: str) -> tuple[Stage, StageConfig, Path]:
        """Return the stage that a checkpoint names, restored strictly without its losses."""
        trainer = self.config.stages[-1].trainer
        if trainer is not None and trainer.spec.own_model:
            why = f"trainer {trainer.name!r} has a model of its own"
            raise BuildError(f"{self.folder}: {why}", hint="use the verbs of its own package")
        path = checkpoint.find(self.folder, which)
        carried = checkpoint.read(path)
        by_name = {stage.name: stage for stage in self.config.stages}
        config = by_name.get(carried[0].stage)
        if config is None:
            raise RunFolderError(f"{path}: stage {carried[0].stage!r} is not in the run file")
        return restore_stage(config, carried, with_losses=False), config, path

    def ready(self, which: str = "best") -> tuple[Stage, Engine, Path]:
        """Return a checkpoint's stage on this machine's device, its data bound, and where it lies.

        Args:
            which: "best", "last", a checkpoint's name or path.
        """
        stage, config, path = self.stage_of(which)
        engine = Engine(_trainer_options(config).get("precision", "fp32"))
        stage.model.to(engine.device)
        stage.data.bind(input_needs(stage.model, config.encoders))
        return stage, engine, path

    def evaluate(self, split: str = "val", which: str = "best") -> Evaluation:
        """Return the metrics of a checkpoint over a split; write them, and pictures, to the folder.

        Args:
            split: "val", "test" or "train".
            which: "best", "last", a checkpoint's name or path.
        """
        trainer = self.config.stages[-1].trainer
        if trainer is not None and trainer.spec.own_model:
            return self._evaluate_own(trainer, split, which)
        from mlkit_core.report.pictures import PictureBook

        stage, engine, path = self.ready(which)
        config = stage.config
        if not config.metrics:
            raise BuildError("metrics: the run file names none")
        limit = _trainer_options(config).get("pictures", 8)
        book = PictureBook(self.folder / "pictures" / split, limit=limit)
        make = partial(build_metrics, config.metrics, len(stage.classes), stage.data.classes)
        found = evaluate(stage.model, stage.data, make, split, engine, seen=book.add)
        if engine.is_main:
            book.close()
            about = {"checkpoint": path.name, "stage": stage.config.name, "weights": stage.weights}
            self._write(found, split, about)
        return found

    def _evaluate_own(self, trainer: Part, split: str, which: str) -> Evaluation:
        """Ask a trainer that has a model of its own, and knows where its checkpoints lie."""
        if split != "val":
            why = f"trainer {trainer.name!r} has a model of its own and evaluates val"
            raise BuildError(f"{why}, got split {split!r}")
        owner: Trainer = build_part(trainer, "trainer")
        found = Evaluation(dict(owner.evaluate(self, Path(which))))
        self._write(found, split, {"checkpoint": which, "stage": self.config.stages[-1].name})
        return found

    def _write(self, found: Evaluation, split: str, about: Mapping[str, Any]) -> None:
        record = {"split": split, **about, **asdict(found)}
        aside, target = self.folder / ".eval.part", self.folder / f"eval-{split}.json"
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        aside.replace(target)
        if found.rows:
            names = list(dict.fromkeys(key for row in found.rows for key in row))
            with target.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(found.rows)

    def predict(self, inputs: Mapping[Role, Path], out: Path, which: str = "best") -> list[Path]:
        """Predict the user's own files; return the files written: JSON and pictures.

        Args:
            inputs: Role to path, or to a literal that the data understands.
            out: Folder; made.
            which: Checkpoint.
        """
        from mlkit_core.report.predictions import PredictionWriter

        stage, engine, _ = self.ready(which)
        writer = PredictionWriter(out, stage.classes)
        batches = (to_device(batch, engine.device) for batch in stage.data.open(inputs))
        with evaluating(stage.model), engine.autocast():
            for batch, predictions in stream(stage.model, batches):
                writer.add(batch, predictions)
        return writer.close()


def _trainer_options(config: StageConfig) -> Mapping[str, Any]:
    return config.trainer.options if config.trainer is not None else {}


def load_run(path: Path | str, overrides: Sequence[str] = ()) -> Run:
    """Return the run of a run file, or of a run folder that holds one.

    Args:
        path: `run.yaml`, or `runs/<name>`.
        overrides: `key.path=value`, as the command line's `--set`.

    Raises:
        ConfigError: The file is not valid; every problem at once.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "run.yaml").is_file():
            hint = "give a run file or a run's folder"
            raise RunFolderError(f"{path}: holds no run.yaml", hint=hint)
        return Run(load_config(path / "run.yaml", overrides), path)
    config = load_config(path, overrides)
    return Run(config, Path("runs") / config.name)
