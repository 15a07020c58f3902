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

_LEAD = ("class", "shot")


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
    specs = stage.model.specs
    roles = [role for role in stage.model.encoders if specs[role].lead == _LEAD]
    if len(roles) != 1:
        got = ", ".join(roles) or "none"
        raise BuildError(f"{run}: needs one encoder of reference photos, has {got}")
    provenance = {
        "checkpoint": path.resolve().name,
        "stage": stage.config.name,
        "weights": dict(stage.weights),
    }
    return Finder(stage.model.eval(), stage.data, roles[0], engine.device, provenance)


def enroll(finder: Finder, photos: Path) -> ReferenceSet:
    """Return the reference set of a folder of photos, or of a folder of such folders.

    All photos of an object are used, each in every view that the run's data names. Maps and masks
    are kept only for a model that compares maps.

    Raises:
        DataError: There are no photos, or one cannot be read.
    """
    folders = reference_folders(photos)
    batch = to_device(photo_batch(folders, finder.data.loader), finder.device)
    with evaluating(finder.model):
        features = to_float32(finder.model.encode(finder.role, batch))
    encoder, whole = finder.model.encoders[finder.role], _compares_maps(finder)
    return reference_set(features, list(folders), encoder, whole=whole)


def check_saved(finder: Finder, where: str) -> None:
    """Refuse a file in the place of photos, for a model that compares the photos' maps.

    Raises:
        BuildError: It does, and the file would lack them.
    """
    if _compares_maps(finder):
        hint = "give `mlkit refdet find` the photos themselves: `--refs`"
        what = "the model compares the photos' maps, which no .refset file holds"
        raise BuildError(f"{where}: {what}", hint=hint)


def _compares_maps(finder: Finder) -> bool:
    """Return whether the head says so, or the encoder gives nothing else."""
    spec = finder.model.specs[finder.role]
    other = issubclass(spec.type, SupportFeatures) or spec.vector_dim or spec.token_dim
    return not other or getattr(finder.model.head, "compares_maps", False)
