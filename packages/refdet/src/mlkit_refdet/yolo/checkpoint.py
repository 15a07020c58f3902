"""YOLO's weights as files have them: plain tensors, or a pickled model; and BatchNorm folded."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mlkit_core.errors import WeightsError
from mlkit_core.weights import read_state_dict

if TYPE_CHECKING:
    from pathlib import Path

BN_EPS = 1e-3  # of every BatchNorm in YOLOv8
_BN = ("weight", "bias", "running_mean", "running_var")
# What torch's restricted unpickler raises on a damaged file, or on one that asks for a way out.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, zipfile.BadZipFile, LookupError, ValueError,
    TypeError, AttributeError, AssertionError, OSError,
)  # fmt: skip


class Inert:
    """Stands for any object of a pickle: it keeps the state and does nothing."""

    def __new__(cls, *args: object) -> Inert:
        """Take what the object's class would take."""
        del args
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        """Keep the state."""
        self.state = state


def read_yolo_state(path: Path) -> dict[str, Tensor]:
    """Return a detector's weights by name, `model.0.conv.weight` and so on.

    A checkpoint of ultralytics is a pickle of the model object. Nothing that it names is imported
    or called: torch's restricted unpickler sees one inert class under all foreign names, and the
    tensors are read out of its states. The average (`ema`) comes before the raw `model`.

    Args:
        path: `.safetensors`, a `torch.save` file of a state dict, or an ultralytics checkpoint.

    Raises:
        WeightsError: The file is missing, damaged, or holds no detector.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return read_state_dict(path)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if not foreign:
            return read_state_dict(path)
        shown: list[Any] = [(Inert, name) for name in sorted(foreign)]
        with torch.serialization.safe_globals(shown):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as err:
        said = str(err).strip().splitlines() or [type(err).__name__]
        raise WeightsError(
            f"{path}: not a readable checkpoint: {said[0]}",
            hint="give a .pt file that ultralytics has saved, or a state dict",
        ) from err
    model = (value.get("ema") or value.get("model")) if isinstance(value, Mapping) else value
    state = dict(_tensors(model, ""))
    if not state:
        raise WeightsError(f"{path}: expected a pickled detector, got {type(model).__name__}")
    return state


def _tensors(module: object, prefix: str) -> list[tuple[str, Tensor]]:
    """Return names and tensors of a module that was read as inert, depth first."""
    parts = getattr(module, "state", None)
    if not isinstance(parts, Mapping):
        return []
    found = [
        (prefix + name, tensor.detach())
        for kind in ("_parameters", "_buffers")
        for name, tensor in (parts.get(kind) or {}).items()
        if isinstance(tensor, Tensor)
    ]
    for name, child in (parts.get("_modules") or {}).items():
        found += _tensors(child, f"{prefix}{name}.")
    return found


def fold_batchnorm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with each `X.bn` folded into `X.conv`, exact for a network in eval mode.

    Raises:
        WeightsError: A BatchNorm lacks a part, or the convolution before it is missing.
    """
    names = [key.removesuffix(".bn.weight") for key in state if key.endswith(".bn.weight")]
    folded = {key: value for key, value in state.items() if ".bn." not in key}
    for name in names:
        wanted = [f"{name}.conv.weight", *(f"{name}.bn.{part}" for part in _BN)]
        missing = [key for key in wanted if key not in state]
        if missing:
            raise WeightsError(f"yolo: the weights do not fit: {missing[0]} is missing")
        kernel, gain, bias, mean, var = (state[key].double() for key in wanted)
        gain = gain / (var + BN_EPS).sqrt()
        folded[f"{name}.conv.weight"] = (kernel * gain.view(-1, 1, 1, 1)).float()
        folded[f"{name}.conv.bias"] = (bias - mean * gain).float()
    return folded
