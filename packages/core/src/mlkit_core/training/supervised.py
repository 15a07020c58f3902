"""The trainer `supervised`: all stages of a run file through the one loop."""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mlkit_core.config import dump_resolved
from mlkit_core.config.changes import changed_keys
from mlkit_core.errors import InputError, RunFolderError
from mlkit_core.training import checkpoint
from mlkit_core.training.config import SupervisedConfig
from mlkit_core.training.engine import Engine
from mlkit_core.training.journal import LOG, Journal, Watcher
from mlkit_core.training.loop import Position, StageLoop
from mlkit_core.training.sampling import derive
from mlkit_core.training.stages import Carried, build_stage, check_patterns, restore_stage
from mlkit_core.types import RunResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mlkit_core.run import Run


class SupervisedTrainer:
    """Gradient descent on weighted losses, with validation, checkpoints and exact resume.

    Args:
        options: Fields of `SupervisedConfig`; every stage reads its own.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # validated by the config model
        self.options = SupervisedConfig(**options)

    def fit(self, run: Run) -> RunResult:
        """Train all stages, or go on where the run folder stands.

        Raises:
            RunFolderError: The folder exists and `resume` is off, or belongs to another file.
            TrainingError: A value is not finite; what was saved stays.
        """
        return Fit(run).run()

    def evaluate(self, run: Run, checkpoint: Path) -> Mapping[str, float]:
        """Return the "val" metrics of a checkpoint."""
        return run.evaluate("val", str(checkpoint)).metrics


@contextmanager
def _polite_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or TERM into a wish that the loop grants after its step."""
    wished: list[int] = []

    def wish(number: int, _frame: object) -> None:
        if wished:
            raise KeyboardInterrupt
        wished.append(number)
        LOG.warning("stopping after this step; press Ctrl-C again to stop at once")

    try:
        before = {s: signal.signal(s, wish) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(wished)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Fit:
    """One call of `fit`: opens or reopens the run folder, then walks the stages."""

    def __init__(self, run: Run) -> None:
        self.wish, self.config, self.folder = run.wish, run.config, run.folder
        self.engine = Engine(self._options(0).precision)
        self.record = {"config": dump_resolved(self.config), "ranks": self.engine.ranks}
        self.journal = Journal(self.folder, self.config, active=self.engine.is_main)
        self.watcher = Watcher(active=self.engine.is_main)
        self.stopping: Callable[[], bool] = lambda: False
        self.state: dict[str, Any] | None = None
        self.carried: Carried | None = None
        self.existed = False  # the run folder, before this call

    def _options(self, index: int) -> SupervisedConfig:
        trainer = self.config.stages[index].trainer
        return SupervisedConfig(**dict(trainer.options) if trainer is not None else {})

    def run(self) -> RunResult:
        """Train to the end or to a stop."""
        self._open()
        self.journal.start(str(self.engine.device), self.engine.ranks)
        status = "failed"
        try:
            with _polite_stop() as self.stopping:
                position = self._stages()
            status = "finished" if position.done else "interrupted"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except InputError:
            status = "refused"
            raise
        finally:
            self.watcher.close()
            self.journal.finish("failed" if status == "refused" else status)
            self.engine.close()
            empty = not (self.folder / "checkpoints").exists()
            if status == "refused" and empty and not self.existed and self.engine.is_main:
                shutil.rmtree(self.folder)  # wrong input leaves nothing half-written
        return RunResult(str(self.folder), status, position.step, position.metrics)

    def _open(self) -> None:
        """Make a new run folder, or read the state to go on from."""
        # Rank 0's word counts: another rank may look after rank 0 has begun to write.
        exists = self.engine.gather((self.folder / "run.yaml").exists())[0]
        self.existed = exists
        if exists and not self.wish.resume:
            hint = "say --resume to go on, or change its `name`"
            raise RunFolderError(f"{self.folder}: the run exists", hint=hint)
        if exists:
            self._reopen()
        if self.state is None and self.config.init_from is not None:
            self.carried = checkpoint.read(_as_checkpoint(self.config.init_from))
        self.engine.wait()
        if self.engine.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.journal.truncate(self.state["journal"] if self.state is not None else 0)
            aside = self.folder / ".run.yaml.part"
            aside.write_text(self.record["config"], encoding="utf-8")
            aside.replace(self.folder / "run.yaml")

    def _reopen(self) -> None:
        try:
            last = checkpoint.find(self.folder, "last")
        except RunFolderError:
            LOG.info("%s: no checkpoint yet, starting from the beginning", self.folder)
            return
        self.state, self.carried = checkpoint.read_state(last), checkpoint.read(last)
        check_same(self.record, self.state, self.wish.allow, self.folder)
        if self.engine.is_main:
            checkpoint.link(self.folder, "last", last.name)
            if best := self.state["position"]["best"]:
                checkpoint.link(self.folder, "best", best)

    def _stages(self) -> Position:
        """Walk the stages from where the run stands; return where it then stands."""
        position = Position(**self.state["position"]) if self.state is not None else Position()
        while True:
            if not position.done and not self._train(position):
                return position
            self.state = None
            if position.stage + 1 == len(self.config.stages):
                return position
            position = Position(
                stage=position.stage + 1,
                step=position.step,
                best=position.best,
                metrics=position.metrics,
            )

    def _train(self, position: Position) -> bool:
        """Train one stage; keep its weights for the next."""
        config, options = self.config.stages[position.stage], self._options(position.stage)
        self.engine = Engine(options.precision)
        if self.state is not None and self.carried is not None:
            stage = restore_stage(config, self.carried)
        else:
            seed = derive(self.config.seed, position.stage, "weights")
            stage = build_stage(config, seed, self.carried)
        if position.stage == 0:
            check_patterns(self.config.stages, stage)
        for where, source in stage.weights.items():
            LOG.info("%s: %s", where, source)
        loop = StageLoop(self, self.engine, stage, options, position)
        if self.state is not None:
            loop.restore(self.state)
        finished = loop.run()
        self.carried = (stage.info(position.step), loop.kept())
        self.engine.free()
        return finished


def _as_checkpoint(path: Path) -> Path:
    """Return a checkpoint for `init_from`: itself, or a run folder's best or last."""
    if (path / checkpoint.MODEL).is_file() or path.is_file():
        return path
    for which in ("best", "last"):
        if (path / which / checkpoint.MODEL).is_file():
            return path / which
    raise RunFolderError(f"init_from: {path}: no checkpoint there")


def check_same(
    record: Mapping[str, Any], state: Mapping[str, Any], allow: tuple[str, ...], folder: Path
) -> None:
    """Raise RunFolderError where the run file or the number of ranks changed, unless named.

    Args:
        record: What holds now: "config" (resolved YAML text) and "ranks".
        state: What the checkpoint says.
        allow: Dotted keys that may differ, and "devices".
        folder: For the message.
    """
    changed = changed_keys(state["config"], record["config"])
    if state["ranks"] != record["ranks"]:
        changed.append("devices")
    refused = [k for k in changed if not any(k == a or k.startswith(f"{a}.") for a in allow)]
    if refused:
        raise RunFolderError(
            f"{folder}: changed since the run started: {', '.join(refused)}",
            hint="name what may change with --allow, or give the run another name",
        )
