"""A reference set: what a model's encoder made of photos, with the objects' names, as one file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import InputError
from mlkit_core.tensors import flatten, to_device, unflatten
from mlkit_refdet.features import SupportFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from mlkit_core.types import Features

_FORMAT = "mlkit-refset/1"


@dataclass(frozen=True, kw_only=True)
class SavedFeatures(SupportFeatures):
    """Features of a file on their way to a model, which they may not fit.

    Args:
        encoder: Fingerprint of the encoder that made them.
        file: Where they are from, for errors.
    """

    encoder: str = ""
    file: str = ""

    def check(self, encoder: nn.Module) -> None:
        """Raise InputError unless `encoder` is, weight by weight, the one that made them."""
        _check_encoder(encoder, self.encoder, self.file)


@dataclass(frozen=True)
class ReferenceSet:
    """Features of the photos of N objects.

    Args:
        features: As the support encoder gives them, `valid [N, K]` among them.
        names: Of the objects, in the order of the features.
        encoder: Fingerprint of the encoder that made them; see `fingerprint`.
    """

    features: Features
    names: tuple[str, ...]
    encoder: str

    def __post_init__(self) -> None:
        valid = self.features.valid
        if valid is None or valid.ndim != 2 or valid.shape[0] != len(self.names):
            got = None if valid is None else tuple(valid.shape)
            raise InputError(f"reference set: valid {got} for {len(self.names)} objects")
        for name, rows in flatten(self.features).items():
            if name != "valid" and rows.shape[0] != valid.numel():
                got = f"{rows.shape[0]} rows for {valid.numel()} photos"
                raise InputError(f"reference set: {name} has {got}")

    def to(self, device: torch.device) -> ReferenceSet:
        """Return the set on a device."""
        return replace(self, features=to_device(self.features, device))

    def check(self, encoder: nn.Module, where: str = "reference set") -> None:
        """Raise InputError unless `encoder` is, weight by weight, the one that made the set.

        A set of an encoder that has trained on since is stale: its numbers mean nothing to the new
        one.
        """
        _check_encoder(encoder, self.encoder, where)

    def carried(self, file: str) -> SavedFeatures:
        """Return the features for a batch; `file`, where the set is from, is for errors."""
        return SavedFeatures(**vars(self.features), encoder=self.encoder, file=file)

    def save(self, path: Path) -> None:
        """Write the set without maps and masks; the file appears when it is whole."""
        from safetensors.torch import save_file

        kept = flatten(replace(self.features, maps={}, mask=None))
        flat = {name: t.detach().cpu().contiguous() for name, t in kept.items()}
        about = {"format": _FORMAT, "names": json.dumps(self.names), "encoder": self.encoder}
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        save_file(flat, aside, metadata=about)
        aside.replace(path)


def load_reference_set(path: Path) -> ReferenceSet:
    """Read what `ReferenceSet.save` wrote.

    Raises:
        InputError: The file is missing, damaged, or no reference set.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such reference set", hint="`mlkit refdet enroll` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator
    except (OSError, SafetensorError) as err:
        raise InputError(f"{path}: cannot be read as a reference set: {err}") from err
    if about.get("format") != _FORMAT:
        raise InputError(f"{path}: is no reference set, or of another version")
    features = unflatten(tensors, SupportFeatures)
    names = tuple(str(name) for name in json.loads(about["names"]))
    if not isinstance(features, SupportFeatures):
        raise InputError(f"{path}: holds no features of photos")
    return ReferenceSet(features, names, about["encoder"])


def fingerprint(encoder: nn.Module) -> str:
    """Return a hash of every weight and buffer of an encoder, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()


def reference_set(
    features: Features, names: Sequence[str], encoder: nn.Module, *, whole: bool = False
) -> ReferenceSet:
    """Return a set of features that an encoder just gave.

    Args:
        features: Of the objects' photos.
        names: Of the objects.
        encoder: What gave the features.
        whole: Keep maps and masks.
    """
    kept = features if whole else replace(features, maps={}, mask=None)
    return ReferenceSet(kept, tuple(names), fingerprint(encoder))


def _check_encoder(encoder: nn.Module, made_by: str, where: str) -> None:
    if fingerprint(encoder) != made_by:
        hint = "enrol the photos again with this run: `mlkit refdet enroll`"
        raise InputError(f"{where}: was made by another encoder, or by other weights", hint=hint)
