"""Checkpoints: written aside, fsynced, renamed; two links, `last` and `best`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mlkit_core.errors import RunFolderError, TrainingError
from mlkit_core.weights import read_pickle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MODEL, STATE = "model.safetensors", "state.pt"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself, in the metadata of `model.safetensors`.

    Args:
        stage: Name of the stage that it belongs to.
        step: Optimiser steps over all stages.
        classes: Of the data.
        components: Part to `owner/name`, as `encoders.image`.
        lora: Encoder's role to its adapters' rank, alpha and targets.
        weights: Encoder's part to where its weights came from.
    """

    stage: str
    step: int
    classes: tuple[str, ...]
    components: Mapping[str, str]
    lora: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


def step_name(step: int, *, epoch_end: bool) -> str:
    """Return the folder name of a checkpoint.

    One written at an epoch's end, after validation, never takes the name of one within the epoch:
    a checkpoint that `last` names is not replaced in place.
    """
    return f"step-{step:08d}" + ("-end" if epoch_end else "")


def write(
    final: Path, info: CheckpointInfo, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint `…/checkpoints/step-…` whole or not at all.

    Raises:
        TrainingError: The disk does not take it.
    """
    root = final.parent
    root.mkdir(parents=True, exist_ok=True)
    aside = root / f".{final.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(plain, aside / MODEL, metadata={"mlkit": json.dumps(asdict(info))})
        torch.save(dict(state), aside / STATE)
        for path in (aside / MODEL, aside / STATE, aside):
            _sync(path)
    except (OSError, SafetensorError, RuntimeError) as err:  # a full disk is any of them
        shutil.rmtree(aside, ignore_errors=True)
        hint = "free some space; --resume goes on from the checkpoint before, which stands"
        raise TrainingError(f"{final}: cannot be written: {err}", hint=hint) from err
    if final.exists():
        stale = root / f".{final.name}.stale"
        shutil.rmtree(stale, ignore_errors=True)
        final.rename(stale)
    aside.rename(final)
    _sync(root)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(folder: Path, name: str, checkpoint: str) -> None:
    """Point `last` or `best` at a checkpoint, in one atomic rename."""
    aside = folder / f".{name}.part"
    aside.unlink(missing_ok=True)
    aside.symlink_to(Path("checkpoints") / checkpoint)
    aside.replace(folder / name)


def prune(folder: Path, keep: set[str]) -> None:
    """Remove all but these checkpoints, and what interrupted writes left over."""
    for path in (folder / "checkpoints").iterdir():
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def find(folder: Path, which: str) -> Path:
    """Return a checkpoint's folder: `last`, `best`, `step-…`, or a path.

    Raises:
        RunFolderError: There is none; what there is, is listed.
    """
    candidates = [folder / which, folder / "checkpoints" / which, Path(which)]
    for path in candidates:
        if (path / MODEL).is_file():
            return path.resolve()
    if which == "last" and (newest := _complete(folder)):
        return folder / "checkpoints" / newest[-1]
    have = ", ".join(_complete(folder)) or "none"
    raise RunFolderError(f"{folder}: no checkpoint {which!r}; there are: {have}")


def _complete(folder: Path) -> list[str]:
    root = folder / "checkpoints"
    names = (p.name for p in root.glob("step-*") if (p / STATE).is_file()) if root.is_dir() else ()
    return sorted(names)


def read(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """Return what a checkpoint says of itself, and its tensors on the CPU.

    Raises:
        RunFolderError: The file is missing, corrupt, or none of ours.
    """
    file = path / MODEL if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("mlkit")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no iterator
    except (OSError, SafetensorError) as err:
        raise RunFolderError(f"{file}: cannot be read as a checkpoint: {err}") from err
    if text is None:
        raise RunFolderError(f"{file}: holds tensors, but no mlkit checkpoint")
    info: dict[str, Any] = json.loads(text)
    return CheckpointInfo(**info | {"classes": tuple(info["classes"])}), tensors


def read_state(path: Path) -> dict[str, Any]:
    """Return the training state beside a checkpoint's weights; plain types and tensors only."""
    return read_pickle(path / STATE)
