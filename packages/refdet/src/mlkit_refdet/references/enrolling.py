"""From photos of objects to a reference set, by a trained run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError, InputError
from mlkit_core.run import load_run
from mlkit_core.tensors import to_device, to_float32
from mlkit_core.training.evaluation import evaluating
from mlkit_refdet.episodes.component import ReferenceFrames
from mlkit_refdet.episodes.opening import photo_batch, reference_folders
from mlkit_refdet.features import SupportFeatures
from mlkit_refdet.references.reference_set import ReferenceSet, reference_set

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from mlkit_core.model import Model


@dataclass(frozen=True)
class Finder:
    """A trained model, ready to enrol photos and to search frames.

    Args:
        model: In eval mode on its device.
        data: Bound to the model's sizes.
        role: Of the reference photos' encoder.
        device: Where the model is.
        provenance: What reports say of it: checkpoint, stage, where weights came from.
    """

    model: Model
    data: ReferenceFrames
    role: str
    device: torch.device
    provenance: Mapping[str, object]


def load_finder(run: Path, checkpoint: str = "best") -> Finder:
    """Return the model of a run's folder.

    Raises:
        InputError: There is no such run.
        BuildError: Its data or model are not of this kind.
    """
    if not run.is_dir():
        raise InputError(f"{run}: not the folder of a run", hint="train one: `mlkit train`")
    stage, engine, path = load_run(run).ready(checkpoint)
    if not isinstance(stage.data, ReferenceFrames):
        raise BuildError(f"{run}: its data is no reference-frames, nothing can be enrolled")
    roles = [r for r, s in stage.model.specs.items() if issubclass(s.type, SupportFeatures)]
    roles = [role for role in roles if role in stage.model.encoders]
    if len(roles) != 1:
        raise BuildError(f"{run}: needs one encoder of reference photos, has {', '.join(roles)}")
    provenance = {
        "checkpoint": path.resolve().name,
        "stage": stage.config.name,
        "weights": dict(stage.weights),
    }
    return Finder(stage.model.eval(), stage.data, roles[0], engine.device, provenance)


def enroll(finder: Finder, photos: Path) -> ReferenceSet:
    """Return the reference set of a folder of photos, or of a folder of such folders.

    All photos of an object are used, each in every view that the run's data names.

    Raises:
        DataError: There are no photos, or one cannot be read.
    """
    folders = reference_folders(photos)
    batch = to_device(photo_batch(folders, finder.data.loader), finder.device)
    with evaluating(finder.model):
        features = to_float32(finder.model.encode(finder.role, batch))
    if not isinstance(features, SupportFeatures):
        raise BuildError(f"encoders.{finder.role}: gives no features of photos")
    return reference_set(features, list(folders), finder.model.encoders[finder.role])
