"""The trainer `none`: a model that is used as it is built, for instance a baseline."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlkit_core.config import dump_resolved
from mlkit_core.errors import BuildError, InputError, RunFolderError
from mlkit_core.training import checkpoint
from mlkit_core.training.engine import Engine
from mlkit_core.training.journal import Journal
from mlkit_core.training.loop import Position
from mlkit_core.training.sampling import derive
from mlkit_core.training.stages import build_stage
from mlkit_core.types import RunResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_core.run import Run


class UntrainedTrainer:
    """Writes the checkpoint of the model as built, with its encoders' weights, and nothing else.

    Args:
        precision: Of evaluation and prediction.
        pictures: Example pictures kept per evaluation.
    """

    def __init__(self, precision: str = "fp32", pictures: int = 8) -> None:
        self.precision, self.pictures = precision, pictures

    def fit(self, run: Run) -> RunResult:
        """Write the run folder.

        Raises:
            RunFolderError: The folder exists: there is nothing to go on with.
            BuildError: There are several stages, or parts do not fit each other.
        """
        if len(run.config.stages) > 1:
            raise BuildError("trainer: `none` trains nothing, so there can be one stage only")
        engine = Engine(self.precision)
        if engine.gather(run.folder.exists())[0]:
            raise RunFolderError(f"{run.folder}: the run exists", hint="change its `name`")
        if engine.is_main:
            self._write(run, engine)
        engine.wait()
        engine.close()
        return RunResult(str(run.folder), "finished", 0, {})

    def _write(self, run: Run, engine: Engine) -> None:
        run.folder.mkdir(parents=True)
        journal = Journal(run.folder, run.config, active=True)
        try:
            (run.folder / "run.yaml").write_text(dump_resolved(run.config), encoding="utf-8")
            journal.start(str(engine.device), engine.ranks)
            _write_checkpoint(run)
        except InputError:
            journal.finish("failed")
            shutil.rmtree(run.folder)  # wrong input leaves nothing half-written
            raise
        journal.finish("finished")

    def evaluate(self, run: Run, checkpoint: Path) -> Mapping[str, float]:
        """Return the "val" metrics of the checkpoint."""
        return run.evaluate("val", str(checkpoint)).metrics


def _write_checkpoint(run: Run) -> None:
    seed = derive(run.config.seed, 0, "weights")
    stage = build_stage(run.config.stages[0], seed, with_losses=False)
    name = checkpoint.step_name(0, epoch_end=True)
    state = {
        "config": dump_resolved(run.config),
        "ranks": 1,
        "position": asdict(Position(done=True, best=name)),
        "journal": 0,
    }
    path = run.folder / "checkpoints" / name
    checkpoint.write(path, stage.info(0), stage.model.state_dict(), state)
    for link in ("last", "best"):
        checkpoint.link(run.folder, link, name)
