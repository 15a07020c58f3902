"""The run folder's record: `metrics.jsonl`, `log.txt`, `environment.json`, and the run hooks."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mlkit_core.plugins import load_catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_core.config.frame import RunConfig

LOG = logging.getLogger("mlkit")
_PACKAGES = ("mlkit-core", "torch", "accelerate", "numpy", "timm", "safetensors")


class Journal:
    """Writes on rank 0; on other ranks every call does nothing.

    Args:
        folder: The run folder.
        config: For the hooks.
        active: Whether this is rank 0.
    """

    def __init__(self, folder: Path, config: RunConfig, *, active: bool) -> None:
        self._folder, self._config, self._active = folder, config, active
        self._path = folder / "metrics.jsonl"
        self._hooks = load_catalogue().hook
        self._environment: dict[str, object] = {}
        self._log: logging.Handler | None = None

    def start(self, device: str, ranks: int) -> None:
        """Open the log and tell the hooks that the run starts or resumes."""
        if not self._active:
            return
        self._log = logging.FileHandler(self._folder / "log.txt", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(self._log)
        LOG.setLevel(min(LOG.level or logging.INFO, logging.INFO))
        self._environment = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: _version(name) for name in _PACKAGES},
            "device": device,
            "ranks": ranks,
        }
        self._note("running")
        self._hooks.mlkit_run_started(folder=self._folder, config=self._config.resolved)

    def _note(self, status: str) -> None:
        """Write `environment.json`; a run that was killed goes on saying that it is running."""
        text = json.dumps({**self._environment, "status": status}, indent=2) + "\n"
        aside = self._folder / ".environment.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self._folder / "environment.json")

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line and tell the hooks."""
        if not self._active:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._hooks.mlkit_metrics(folder=self._folder, record=record)

    def length(self) -> int:
        """Return the bytes written so far, after making sure that they are on the disk."""
        if not self._path.exists():
            return 0
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def truncate(self, length: int) -> None:
        """Drop what was written after a checkpoint, so that no line appears twice."""
        if self._path.exists():
            os.truncate(self._path, length)

    def finish(self, status: str) -> None:
        """Tell the hooks how the run ended and close the log."""
        if not self._active:
            return
        with suppress(OSError):  # on a full disk the error that ended the run is what matters
            self._note(status)
        self._hooks.mlkit_run_finished(folder=self._folder, status=status)
        if self._log is not None:
            LOG.removeHandler(self._log)
            self._log.close()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


class Watcher:
    """Shows progress: a bar on a terminal, otherwise a log line for each record."""

    def __init__(self, *, active: bool) -> None:
        self._bar: Progress | None = None
        if active and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            from rich.console import Console

            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        self._task = self._bar.add_task("", note="") if self._bar is not None else None
        self._lines = active and self._bar is None

    def show(self, stage: str, done: int, total: int, note: str, *, line: bool) -> None:
        """Say how far a stage is; `line` asks for a line where there is no bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=stage, completed=done, total=total, note=note)
        elif self._lines and line:
            LOG.info("%s step %d/%d %s", stage, done, total, note)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
