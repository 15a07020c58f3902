"""From dense outputs to boxes in original pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchvision.ops import batched_nms

from mlkit_core.types import BoxPrediction
from mlkit_refdet.head.geometry import distances_to_boxes, expectation

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_core.types import SampleMeta
    from mlkit_refdet.results import ReferenceLogits

_CANDIDATES = 2000


def pair_candidates(output: ReferenceLogits, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes `[A * W, 4]`, scores and support classes of one image's asked pairs."""
    pairs, asked = output.pairs, output.asked
    if pairs is None or asked is None:
        raise ValueError("the output holds no pairs")
    count = asked.shape[1]
    own = slice(row * count, (row + 1) * count)
    boxes = distances_to_boxes(expectation(pairs.distances[own]), output.points, output.strides)
    scores = pairs.logits[own, :, 0].sigmoid()  # [W, A]
    labels = asked[row][:, None].expand_as(scores)
    real = labels >= 0
    return boxes[real], scores[real], labels[real]


def standard_candidates(output: ReferenceLogits, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes `[A * C, 4]`, scores and classes of one image's standard branch."""
    if output.standard is None:
        raise ValueError("the output holds no standard branch")
    found = output.standard
    boxes = distances_to_boxes(expectation(found.distances[row]), output.points, output.strides)
    scores = found.logits[row].sigmoid()  # [A, C]
    labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    every = boxes[:, None].expand(-1, scores.shape[1], -1)
    return every.flatten(0, 1), scores.flatten(), labels.flatten()


def suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, conf: float, iou: float, max_det: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is left above `conf` after suppression within each class, best first.

    Args:
        boxes: `[M, 4]`.
        scores: `[M]`.
        labels: `[M]`.
        conf: Least score; 0 keeps all.
        iou: Overlap with a better box of the class that suppresses.
        max_det: At most so many.
    """
    kept = torch.nonzero(scores >= conf).flatten()
    if len(kept) > _CANDIDATES:
        kept = kept[scores[kept].topk(_CANDIDATES).indices]
    boxes, scores, labels = boxes[kept].float(), scores[kept].float(), labels[kept]
    best = batched_nms(boxes, scores, labels, iou)[:max_det]
    return boxes[best], scores[best], labels[best]


def in_original(boxes: Tensor, meta: SampleMeta) -> Tensor:
    """Return boxes of input pixels in original pixels, clipped to the image."""
    if meta.letterbox is not None:
        top, left = meta.letterbox.offset
        offset = torch.tensor([left, top, left, top], device=boxes.device)
        boxes = (boxes - offset) / meta.letterbox.scale
    if meta.size is not None:
        height, width = meta.size
        most = torch.tensor([width, height, width, height], device=boxes.device)
        boxes = boxes.clamp_min(0).minimum(most)
    return boxes


def as_prediction(
    candidates: tuple[Tensor, Tensor, Tensor],
    meta: SampleMeta,
    *,
    conf: float,
    iou: float,
    max_det: int,
) -> BoxPrediction:
    """Return one image's prediction, on the CPU; boxes outside the image are dropped."""
    boxes, scores, labels = suppressed(*candidates, conf=conf, iou=iou, max_det=max_det)
    boxes = in_original(boxes, meta)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return BoxPrediction(boxes[real].cpu(), scores[real].cpu(), labels[real].cpu())
