"""The trainer `ultralytics`: its own loop fine-tunes a YOLO, under a run file and a run folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlkit_cluster.training.dataset import write_yolo_dataset
from mlkit_cluster.yolo.adapter import open_engine
from mlkit_core.config import dump_resolved
from mlkit_core.errors import BuildError, RunFolderError
from mlkit_core.training.journal import LOG, Journal
from mlkit_core.types import RunResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_core.run import Run

_OWN = (
    "data",
    "epochs",
    "batch",
    "imgsz",
    "device",
    "workers",
    "project",
    "name",
    "resume",
    "seed",
)


def weights_of(folder: Path, which: str) -> Path:
    """Return where a run folder of this trainer keeps its checkpoint "best" or "last"."""
    return folder / "ultralytics" / "weights" / f"{which}.pt"


class UltralyticsTrainer:
    """Fine-tunes a YOLO by ultralytics' own loop.

    Checkpoints are ultralytics' own, once per epoch; `mlkit cluster … --model` takes them, or the
    run folder. Resuming goes on after the last whole epoch with ultralytics' own state: unlike
    mlkit's trainer it is not the uninterrupted run bit for bit.

    Args:
        model: A checkpoint to fine-tune, or a configuration as `yolov8n.yaml` for random weights.
        epochs: Over the training split.
        batch_size: Images in a step.
        image_size: Side of the square input, pixels.
        device: As torch names it; "auto" takes a GPU where there is one.
        workers: Processes that load images.
        options: Further arguments of ultralytics' `train`, by its own names.

    Raises:
        BuildError: `options` names what the run file says elsewhere.
    """

    def __init__(
        self,
        model: str,
        *,
        epochs: int = 100,
        batch_size: int = 16,
        image_size: int = 640,
        device: str = "auto",
        workers: int = 2,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.image_size, self.device = model, image_size, device
        self.epochs, self.batch_size, self.workers = epochs, batch_size, workers
        self.options = dict(options or {})
        if taken := sorted(self.options.keys() & set(_OWN)):
            raise BuildError(f"options: the run file says {', '.join(taken)} elsewhere")

    def fit(self, run: Run) -> RunResult:
        """Train, or go on after the last whole epoch.

        Raises:
            RunFolderError: The folder exists and `resume` is off.
            MlkitError: The model cannot be read, or training failed.
        """
        exists = (run.folder / "run.yaml").exists()
        if exists and not run.wish.resume:
            hint = "say --resume to go on, or change its `name`"
            raise RunFolderError(f"{run.folder}: the run exists", hint=hint)
        if exists and _status(run.folder) == "finished":
            LOG.info("%s: finished already", run.folder)
            return RunResult(str(run.folder), "finished", self.epochs, {})
        last = weights_of(run.folder, "last")
        resume = exists and last.is_file()
        engine = open_engine(str(last) if resume else self.model, self.device)
        dataset = write_yolo_dataset(_data_part(run), run.folder / "dataset")
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "run.yaml").write_text(dump_resolved(run.config), encoding="utf-8")
        record, status = _Record(run), "failed"
        try:
            engine.train({**self._arguments(run, dataset), "resume": resume}, record.add)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            record.journal.finish(status)
        return RunResult(str(run.folder), status, record.epochs, record.metrics)

    def _arguments(self, run: Run, dataset: Path) -> dict[str, Any]:
        return {
            "plots": False,
            "amp": False,  # its check would download a model
            **self.options,
            "data": str(dataset),
            "epochs": self.epochs,
            "batch": self.batch_size,
            "imgsz": self.image_size,
            "workers": self.workers,
            "seed": run.config.seed,
            "project": str(run.folder.absolute()),
            "name": "ultralytics",
            "exist_ok": True,
        }

    def evaluate(self, run: Run, checkpoint: Path) -> Mapping[str, float]:
        """Return ultralytics' own validation metrics of "best" or "last" on the val split.

        Raises:
            RunFolderError: The checkpoint is not there.
        """
        path = weights_of(run.folder, checkpoint.name)
        if not path.is_file():
            raise RunFolderError(f"{path}: no such checkpoint", hint="there are best and last")
        dataset = write_yolo_dataset(_data_part(run), run.folder / "dataset")
        return open_engine(str(path), self.device).validate(
            {
                "data": str(dataset),
                "imgsz": self.image_size,
                "batch": self.batch_size,
                "workers": self.workers,
                "plots": False,
                "project": str(run.folder.absolute()),
                "name": "validation",
                "exist_ok": True,
            }
        )


class _Record:
    """Writes what ultralytics reports after each epoch into the run folder."""

    def __init__(self, run: Run) -> None:
        self.epochs, self.metrics = 0, dict[str, float]()
        self.journal = Journal(run.folder, run.config, active=True)
        self.journal.start("ultralytics", 1)

    def add(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> None:
        """Write one epoch's means and validation metrics."""
        self.epochs, self.metrics = epoch, dict(val)
        about = {"stage": "main", "epoch": epoch, "step": epoch}
        self.journal.write({"kind": "train", **about, **train})
        self.journal.write({"kind": "val", **about, **val})
        said = ", ".join(f"{name} {value:.4g}" for name, value in {**train, **val}.items())
        LOG.info("epoch %d: %s", epoch, said)


def _status(folder: Path) -> str:
    """Return how the run ended; "" where it does not say."""
    try:
        return str(json.loads((folder / "environment.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError):
        return ""


def _data_part(run: Run) -> Any:  # noqa: ANN401  # a part of the run file
    data = run.config.stages[0].data
    if data is None or data.name != "image-folder":
        got = "none" if data is None else repr(data.name)
        raise BuildError(f"data: trainer 'ultralytics' trains on 'image-folder', got {got}")
    return data
