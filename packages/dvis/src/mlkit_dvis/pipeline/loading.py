"""A trained or converted model, ready to track videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import BuildError, InputError
from mlkit_core.run import load_run
from mlkit_dvis.pipeline.session import Parts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_core.interfaces import Data
    from mlkit_core.model import Model
    from mlkit_dvis.head import VideoInstances


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on its device, and the data that reads its inputs.

    Args:
        model: All of it.
        parts: What videos run through.
        head: How videos are read out.
        data: Bound to the model's sizes.
        classes: Names, by label.
        device: Where the model is.
        provenance: What reports say of it: checkpoint, stage, where weights came from.
    """

    model: Model
    parts: Parts
    head: VideoInstances
    data: Data
    classes: tuple[str, ...]
    device: torch.device
    provenance: Mapping[str, object]


def load_tracker(weights: Path, *, checkpoint: str = "best", device: str = "auto") -> LoadedModel:
    """Return the model of a run folder: one that was trained, or one that `convert` wrote.

    Args:
        weights: `runs/<name>`.
        checkpoint: "best", "last", a checkpoint's name or path.
        device: "auto" takes an accelerator where there is one; else torch's name of it.

    Raises:
        InputError: There is no such run, or its model tracks no videos.
    """
    from mlkit_dvis.head import VideoInstances

    if not weights.is_dir():
        hint = "a published checkpoint becomes one by `mlkit dvis convert FILE -o FOLDER`"
        raise InputError(f"{weights}: not the folder of a run", hint=hint)
    stage, engine, path = load_run(weights).ready(checkpoint)
    head = stage.model.head
    if not isinstance(head, VideoInstances):
        raise BuildError(f"{weights}: its head is {type(head).__name__}, not video-instances")
    place = engine.device if device == "auto" else _device(device)
    model = stage.model.to(place).eval()
    provenance = {
        "checkpoint": path.resolve().name,
        "stage": stage.config.name,
        "weights": dict(stage.weights),
    }
    parts = Parts.of(model)
    return LoadedModel(model, parts, head, stage.data, stage.classes, place, provenance)


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used: {reason}") from err
    return place
