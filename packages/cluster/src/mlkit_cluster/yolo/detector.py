"""A YOLO ready to be asked: raw output, detections, and its own library's loss."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mlkit_cluster.kernel.masks import decode_mask
from mlkit_cluster.kernel.raw import RawOutput, join_rows
from mlkit_cluster.yolo.detections import Detections, detect
from mlkit_cluster.yolo.levels import entering_maps, level_name
from mlkit_core.errors import InputError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_RENAMED = {"l1_loss": "dfl"}  # what heads with a single bin for each side have in its place


@dataclass(frozen=True)
class LoadedModel:
    """An ultralytics model and what belongs to it.

    Args:
        model: The network.
        make_criterion: Gives its criterion, with all gains 1; called once the model is in place.
        branch: Which of a dual head's outputs is read: "one2many" or "one2one".
        names: Of the classes.
        gains: Component to its weight in the total.
        sha256: Of the file.
        fast: Whether head and criterion are those that the kernel computes.
        is_segmenter: Whether it gives masks.
    """

    model: nn.Module
    make_criterion: Callable[[], Callable[..., Any]]
    branch: str
    names: tuple[str, ...]
    gains: Mapping[str, float]
    sha256: str
    fast: bool
    is_segmenter: bool

    @property
    def head(self) -> Any:  # noqa: ANN401  # ultralytics' Detect
        """The last layer."""
        return self.model.model[-1]  # pyright: ignore[reportIndexIssue]  # ultralytics' list


class Detector:
    """A YOLO in eval mode, for square inputs of one size.

    Attributes: `names`, `num_classes`, `strides`, `reg_max`, `is_segmenter`, `image_size`, `gains`
    (component to its weight in the total), `sha256` of the file, `device`, `bins` (values of the
    distances' bins, as the file has them), and `fast`: whether the loss is the one that
    `mlkit_cluster.kernel` computes; otherwise only `criterion` is exact.

    Args:
        loaded: The model and what belongs to it.
        image_size: Side of the input, pixels.
        device: As torch names it.

    Raises:
        InputError: The size does not suit the strides.
    """

    def __init__(self, loaded: LoadedModel, image_size: int, device: str) -> None:
        head = loaded.head
        # Convolutions of channels that lie side by side are a fifth faster.
        self._model = (
            loaded.model.requires_grad_(False)
            .eval()
            .to(device=device, memory_format=torch.channels_last)
        )
        self._loss, self._branch, self._head = loaded.make_criterion(), loaded.branch, head
        self._asking = Lock()  # the criterion's assigner keeps sizes of its batch
        self.names, self.gains, self.sha256 = loaded.names, dict(loaded.gains), loaded.sha256
        self.fast, self.is_segmenter = loaded.fast, loaded.is_segmenter
        self.num_classes, self.reg_max = int(head.nc), int(head.reg_max)
        self.strides = tuple(int(stride) for stride in head.stride.tolist())
        self.bins = _bins(head)
        self.image_size, self.device = _legal_size(image_size, max(self.strides)), device

    @property
    def model(self) -> nn.Module:
        """The ultralytics model, in eval mode."""
        return self._model

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> RawOutput:
        """Return the raw output of RGB images 0..1, `[B, 3, S, S]`, on the detector's device.

        Raises:
            InputError: Images of another size.
        """
        side = self.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            got = tuple(images.shape)
            raise InputError(f"detector: takes images [B, 3, {side}, {side}], got {got}")
        self._model.eval()
        images = images.to(self.device)
        if images.device.type != "cpu":
            return self._forward(images)
        # On a CPU a batch is no faster, and its sums would depend on its size.
        return join_rows([self._forward(image[None]) for image in images])

    def _forward(self, images: Tensor) -> RawOutput:
        images = images.contiguous(memory_format=torch.channels_last)
        said = _dense(self._model(images), self._branch)
        feats = said.get("feats") or entering_maps(self._head.cv2, lambda: self._model(images))
        maps = {level_name(s): m for s, m in zip(self.strides, feats, strict=True)}
        protos = said.get("proto")
        protos = protos[0] if isinstance(protos, tuple) else protos
        return RawOutput(said["boxes"], said["scores"], said.get("mask_coefficient"), protos, maps)

    @torch.inference_mode()
    def criterion(
        self,
        raw: RawOutput,
        boxes_xywhn: np.ndarray,
        labels: np.ndarray,
        masks: Sequence[bytes] | None = None,
    ) -> dict[str, float]:
        """Return ultralytics' own loss of one image at batch 1, all gains 1, by component.

        Components of known heads are box, cls, dfl and, where masks are given, seg; another
        criterion's go by their own names. Without targets, box, dfl and seg are 0.

        Args:
            raw: Of one image.
            boxes_xywhn: `[G, 4]`, centre and size over S.
            labels: `[G]`.
            masks: One blob for each box, at S / 4.

        Raises:
            InputError: `raw` holds several images.
        """
        if raw.scores.shape[0] != 1:
            raise InputError(f"criterion: takes one image's output, got {raw.scores.shape[0]}")
        targets = _as_targets(raw, boxes_xywhn, labels, masks)
        targets = {key: value.to(self.device) for key, value in targets.items()}
        with self._asking:
            items = self._loss((None, _as_predictions(raw.to(self.device))), targets)[1]
        named = {_component(key): float(value) for key, value in items.items()}
        if named.pop("sem", 0.0) != 0:
            raise InputError("criterion: the head has a semantic loss, which is no distance")
        if raw.protos is not None and masks is None and len(labels):
            named.pop("seg", None)
        return named

    def detections(
        self, raw: RawOutput, *, conf: float = 0.25, iou: float = 0.45, max_det: int = 300
    ) -> list[Detections]:
        """Return each image's detections in input pixels; see `detect`."""
        options = {"conf": conf, "iou": iou, "max_det": max_det}
        return detect(raw, self.image_size, self.strides, bins=self.bins, **options)


def _dense(output: Any, branch: str) -> dict[str, Any]:  # noqa: ANN401  # ultralytics' output
    said = output[1] if isinstance(output, tuple) else output
    said = said.get(branch, said) if isinstance(said, dict) else said
    if not isinstance(said, dict) or not {"boxes", "scores"} <= said.keys():
        raise WeightsError("detector: its head gives no dense boxes and scores")
    return said


def _as_predictions(raw: RawOutput) -> dict[str, Any]:
    said = {"boxes": raw.boxes, "scores": raw.scores, "feats": [*raw.maps.values()]}
    if raw.protos is not None:
        said |= {"mask_coefficient": raw.coefs, "proto": raw.protos}
    return said


def _bins(head: Any) -> Tensor | None:  # noqa: ANN401  # ultralytics' head
    """Return the bins' values: 0, 1, 2, … but for files that were quantised."""
    projection = getattr(head.dfl, "conv", None)
    return None if projection is None else projection.weight.detach().flatten().float().cpu()


def _component(item: str) -> str:
    return _RENAMED.get(item, item.removesuffix("_loss"))


def _as_targets(
    raw: RawOutput, boxes: np.ndarray, labels: np.ndarray, masks: Sequence[bytes] | None
) -> dict[str, Tensor]:
    targets = {
        "batch_idx": torch.zeros(len(labels)),
        "cls": torch.as_tensor(np.asarray(labels, np.float32)),
        "bboxes": torch.as_tensor(np.asarray(boxes, np.float32)).view(-1, 4),
    }
    if raw.protos is not None:
        targets["masks"] = _mask_stack(masks, len(labels), tuple(raw.protos.shape[2:]))
    return targets


def _mask_stack(masks: Sequence[bytes] | None, count: int, size: tuple[int, ...]) -> Tensor:
    if masks is None or not count:
        return torch.zeros(count, *size)
    return torch.from_numpy(np.stack([decode_mask(blob) for blob in masks]).astype(np.float32))


def _legal_size(image_size: int, multiple: int) -> int:
    if image_size < multiple or image_size % multiple:
        raise InputError(f"image size: expected a multiple of {multiple} pixels, got {image_size}")
    return image_size
