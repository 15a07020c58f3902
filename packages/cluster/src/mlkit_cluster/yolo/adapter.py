"""The one module that imports ultralytics (AGPL-3.0): loads detectors, runs them, asks their loss.

Ultralytics is told to stay off the network, to install nothing and to print nothing. It keeps its
settings in its own folder (`YOLO_CONFIG_DIR`, by default in the user's).
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mlkit_cluster.images.categories import COCO_NAMES
from mlkit_cluster.images.device import torch_device
from mlkit_cluster.yolo.checkpoint import read_checkpoint
from mlkit_cluster.yolo.detector import Detector, LoadedModel
from mlkit_cluster.yolo.quiet import undisturbed
from mlkit_core.errors import TrainingError, WeightsError
from mlkit_core.weights import file_sha256

with undisturbed():
    from ultralytics.nn import modules, tasks
    from ultralytics.nn.modules.head import Detect, Segment
    from ultralytics.utils import IterableSimpleNamespace, loss, tal

EpochTold = Callable[[int, Mapping[str, float], Mapping[str, float]], None]
__all__ = ["Detector", "Engine", "load_detector", "open_engine", "write_random_detector"]
_log = logging.getLogger("mlkit.cluster")
_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
_CRITERIA = {Detect: loss.v8DetectionLoss, Segment: loss.v8SegmentationLoss}


def load_detector(path: Path, image_size: int, device: str = "auto") -> Detector:
    """Return the detector of a file, on a device.

    Args:
        path: An ultralytics checkpoint, or `{state_dict, yaml, fused}` as plain tensors and values.
        image_size: Side of the square input, pixels; a multiple of the coarsest stride.
        device: As torch names it; "auto" takes a GPU where there is one.

    Raises:
        WeightsError: The file is missing, damaged, not safe to open, or no detector.
        InputError: The size does not suit, or there is no such device.
    """
    value = read_checkpoint(path, _module_classes(), _FORGOTTEN)
    loaded = _loaded(_model_of(path, value).float(), file_sha256(path))
    if not loaded.fast:
        head = type(loaded.head).__name__
        _log.warning("%s: head %s: losses come from ultralytics, pair by pair", path.name, head)
    return Detector(loaded, image_size, torch_device(device))


def _loaded(model: Any, sha256: str) -> LoadedModel:  # noqa: ANN401  # an ultralytics model
    """Return the model with gains of 1, and batch normalisation folded where that is exact."""
    args = getattr(model, "args", None)
    given = args if isinstance(args, dict) else vars(args) if args is not None else {}
    gains = {name: float(given.get(name, value)) for name, value in _GAINS.items()}
    ones = dict.fromkeys(_GAINS, 1.0)
    model.args = SimpleNamespace(**{"epochs": 1, **given, **ones, "overlap_mask": False})
    head = model.model[-1]
    branch = "one2one" if getattr(head, "end2end", False) else "one2many"
    fast = _is_fast(model, head)
    if fast:  # a dual head would lose a branch
        model.fuse(verbose=False)

    def make_criterion() -> Any:  # noqa: ANN401  # ultralytics' criterion
        criterion = model.init_criterion()
        return getattr(criterion, branch, criterion)

    return LoadedModel(
        model=model,
        make_criterion=make_criterion,
        branch=branch,
        names=_names(model, head.nc),
        gains={**gains, "seg": gains["box"]},
        sha256=sha256,
        fast=fast,
        is_segmenter=isinstance(head, Segment),
    )


def _is_fast(model: Any, head: Any) -> bool:  # noqa: ANN401  # an ultralytics model
    """Return whether head and criterion are those whose formulas the kernel has."""
    if type(head) not in _CRITERIA or head.reg_max < 2 or getattr(head, "one2one_cv2", None):
        return False
    criterion = model.init_criterion()
    weighted = getattr(criterion, "class_weights", None) is not None
    return type(criterion) is _CRITERIA[type(head)] and not weighted


def _module_classes() -> list[type]:
    """Return the layers of torch and ultralytics, the two models that detect, their arguments."""
    own = [dict(vars(value)) for value in vars(modules).values() if inspect.ismodule(value)]
    own.append(dict(vars(nn)))
    found = {
        value: None
        for names in own
        for value in names.values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value is not nn.Module
        if value.__module__.startswith(("torch.nn.modules.", "ultralytics.nn.modules."))
    }
    return [*found, tasks.DetectionModel, tasks.SegmentationModel, IterableSimpleNamespace]


# A checkpoint of an unfinished training carries its criterion; it is made anew.
_FORGOTTEN = [
    f"{value.__module__}.{value.__qualname__}"
    for module in (loss, tal)
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
]


def _model_of(path: Path, value: Any) -> nn.Module:  # noqa: ANN401  # what a file held
    if isinstance(value, dict) and {"state_dict", "yaml"} <= value.keys():
        return _rebuilt(path, value)
    model = (value.get("ema") or value.get("model")) if isinstance(value, dict) else None
    if not isinstance(model, (tasks.DetectionModel, tasks.SegmentationModel)):
        got = type(value if model is None else model).__name__
        raise WeightsError(f"{path}: expected a YOLO for detection or segmentation, got {got}")
    if not hasattr(model, "args") and isinstance(value.get("train_args"), dict):
        model.args = value["train_args"]
    model.criterion = None
    return model


def _rebuilt(path: Path, value: Mapping[str, Any]) -> nn.Module:
    """Return the model of a configuration's name, with its state."""
    name = str(value["yaml"])
    if not re.fullmatch(r"yolo[a-z0-9-]+\.yaml", name):
        # A whole configuration could name code to run: ultralytics evaluates parts of it.
        raise WeightsError(
            f"{path}: yaml: expected ultralytics' own, as yolov8n.yaml, got {name!r}"
        )
    kind = tasks.SegmentationModel if "-seg" in name else tasks.DetectionModel
    try:
        model = kind(name, nc=value.get("nc"), verbose=False)
        if value.get("fused"):
            model.fuse(verbose=False)
        model.load_state_dict({key: part.float() for key, part in value["state_dict"].items()})
    except (RuntimeError, FileNotFoundError, AttributeError) as err:
        said = " ".join(str(err).split())[:200]
        raise WeightsError(f"{path}: the state does not fit {name}: {said}") from err
    if "names" in value:
        model.names = value["names"]
    return model


def _names(model: nn.Module, count: int) -> tuple[str, ...]:
    given: Any = getattr(model, "names", None) or {}
    names = tuple(str(n) for n in (given.values() if isinstance(given, dict) else given))
    if names == tuple(str(index) for index in range(count)) and count == len(COCO_NAMES):
        return COCO_NAMES  # a bare configuration of 80 classes is COCO's
    return names if len(names) == count else tuple(f"class {index}" for index in range(count))


def write_random_detector(path: Path, config: str, num_classes: int, *, seed: int = 0) -> Path:
    """Write a detector of random weights that `load_detector` reads; for examples and tests.

    Args:
        path: The file.
        config: Ultralytics' own, as `yolov8n.yaml`.
        num_classes: Its classes, without names.
        seed: Of the weights.
    """
    kind = tasks.SegmentationModel if "-seg" in config else tasks.DetectionModel
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config, nc=num_classes, verbose=False)
    value = {"state_dict": model.state_dict(), "yaml": config, "nc": num_classes, "fused": False}
    torch.save(value, path)
    return path


class Engine:
    """Ultralytics' own training and validation of one model.

    Args:
        model: A checkpoint, or the name of one of ultralytics' configurations.
        device: As torch names it, or "auto".

    Raises:
        WeightsError: The file is missing, not safe to open, or no detector.
    """

    def __init__(self, model: str, device: str) -> None:
        self._yolo, self._device = _engine_model(model), torch_device(device)

    def train(self, arguments: Mapping[str, Any], on_epoch: EpochTold) -> None:
        """Train, or with `resume` go on; `on_epoch` gets (epoch, training means, metrics).

        Raises:
            TrainingError: Ultralytics refuses or fails.
        """
        told: set[int] = set()

        def after_epoch(trainer: Any) -> None:  # noqa: ANN401  # ultralytics'
            if trainer.epoch in told or trainer.epoch >= trainer.epochs:
                return  # it calls once more after its last validation
            told.add(trainer.epoch)
            means = trainer.label_loss_items(trainer.tloss, prefix="train")
            on_epoch(trainer.epoch + 1, _numbers(means), _numbers(trainer.metrics))

        self._yolo.add_callback("on_fit_epoch_end", after_epoch)
        try:
            self._yolo.train(**arguments, device=self._device, verbose=False)
        except (RuntimeError, FileNotFoundError, AssertionError, SyntaxError, ValueError) as err:
            said = " ".join(str(err).split())[:300]
            raise TrainingError(f"ultralytics: {said}") from err

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, float]:
        """Return validation metrics by ultralytics' own names."""
        found = self._yolo.val(**arguments, device=self._device, verbose=False)
        return _numbers(found.results_dict)


def open_engine(model: str, device: str) -> Engine:
    """Return ultralytics' engine for a model; see `Engine`."""
    return Engine(model, device)


def _engine_model(model: str) -> Any:  # noqa: ANN401  # ultralytics' YOLO
    from ultralytics import YOLO

    if re.fullmatch(r"yolo[a-z0-9-]+\.yaml", model):
        return YOLO(model)
    path = Path(model).expanduser()
    read_checkpoint(path, _module_classes(), _FORGOTTEN)  # what is not safe is refused before
    return YOLO(str(path))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return names without brackets, which are no part of mlkit's metric names."""
    return {
        name.replace("(B)", "").replace("(M)", "-masks"): float(value)
        for name, value in values.items()
    }
