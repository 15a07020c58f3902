"""The plugin `tensorboard`: writes a run's metrics for TensorBoard, where `MLKIT_TENSORBOARD=1`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import PluginError
from mlkit_core.plugins.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MLKIT_API = 1
SWITCH = "MLKIT_TENSORBOARD"
_SKIPPED = ("kind", "stage", "step")
_writers: dict[Path, Any] = {}  # of this process's runs; what makes one, until the first line


@hookimpl
def mlkit_run_started(folder: Path, config: Mapping[str, object]) -> None:
    """Note that this run is to be written.

    Raises:
        PluginError: It is switched on, but TensorBoard is not installed.
    """
    del config
    if os.environ.get(SWITCH, "0") in ("", "0"):
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as err:
        raise PluginError(
            f"{SWITCH}: tensorboard is not installed: pip install 'mlkit-core[tensorboard]'"
        ) from err
    # After a resume, `purge_step` hides what the interrupted run wrote from the first step on.
    _writers[folder] = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)


@hookimpl
def mlkit_metrics(folder: Path, record: Mapping[str, object]) -> None:
    """Write the numbers of one line as `<kind>/<name>`, at the line's step."""
    step = record.get("step")
    if folder not in _writers or not isinstance(step, int):
        return
    if callable(_writers[folder]):
        _writers[folder] = _writers[folder](step)
    values = {name: value for name, value in record.items() if name not in _SKIPPED}
    for tag, value in _numbers(str(record.get("kind", "run")), values):
        _writers[folder].add_scalar(tag, value, step)


def _numbers(tag: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(f"{tag}/{name}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield tag, float(value)


@hookimpl
def mlkit_run_finished(folder: Path, status: str) -> None:
    """Close the file."""
    del status
    writer = _writers.pop(folder, None)
    if writer is not None and not callable(writer):
        writer.close()
