"""Task-aligned assignment: which anchors learn which box, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlkit_refdet.losses.boxes import ciou

if TYPE_CHECKING:
    from torch import Tensor

TOPK, ALPHA, BETA = 10, 0.5, 6.0
_EPS = 1e-9


@dataclass(frozen=True)
class Assignment:
    """The positive anchors of all rows, P of them, in order of row and anchor.

    Args:
        rows: `[P]`.
        anchors: `[P]`.
        truth: `[P]`, index of the row's box.
        quality: `[P]`, target score of the box's class, 0..1.
        foreground: `[R, A]` bool, which anchors are positive.
    """

    rows: Tensor
    anchors: Tensor
    truth: Tensor
    quality: Tensor
    foreground: Tensor

    @property
    def normaliser(self) -> Tensor:
        """Sum of the target scores, at least 1: what detection losses are divided by."""
        return self.quality.sum().clamp_min(1)


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    boxes_xyxy: Tensor,
    anchors: tuple[Tensor, Tensor],
    truth_boxes: Tensor,
    truth_labels: Tensor,
) -> Assignment:
    """Return which anchors are positive for which box.

    An anchor whose centre lies in a box is aligned with it by `score^0.5 * CIoU^6`; each box takes
    its 10 best, an anchor that several boxes take goes to the one that it overlaps most, and its
    target score is the alignment, scaled so that a box's best anchor gets the box's best CIoU.

    Source: Feng et al., "TOOD", ICCV 2021, section 3.3, with the exponents of YOLOv8. Boxes
    narrower than the second finest stride are widened to it when centres are looked for, as
    ultralytics does: otherwise a box of few pixels holds no centre.

    Args:
        scores: `[R, A, C]`, 0..1.
        boxes_xyxy: `[R, A, 4]`, predicted, pixels.
        anchors: Centres `[A, 2]` and strides `[A]`, pixels.
        truth_boxes: `[R, M, 4]`, pixels.
        truth_labels: `[R, M]`, column of `scores`; -1 where there is no box.
    """
    (rows, count), points = scores.shape[:2], anchors[0]
    inside = _centres_inside(points, _widened(truth_boxes, anchors[1]))
    inside &= (truth_labels >= 0)[..., None]  # [R, M, A]
    row, box, anchor = inside.nonzero(as_tuple=True)
    overlaps, alignment = (scores.new_zeros(inside.shape) for _ in range(2))
    quality = ciou(truth_boxes[row, box], boxes_xyxy[row, anchor]).clamp_min(0)
    overlaps[row, box, anchor] = quality
    score = scores[row, anchor, truth_labels[row, box]]
    alignment[row, box, anchor] = score**ALPHA * quality**BETA
    if truth_labels.shape[1] == 0:
        return _positives(scores.new_zeros(rows, count), torch.zeros_like(inside).any(1), inside)
    best = alignment.topk(min(TOPK, count), dim=-1).indices
    chosen = torch.zeros_like(inside).scatter_(-1, best, True) & inside
    chosen = _one_box_each(chosen, overlaps)
    return _positives(_target_scores(chosen, alignment, overlaps), chosen.any(1), chosen)


def _widened(boxes_xyxy: Tensor, strides: Tensor) -> Tensor:
    """Return boxes whose sides are no shorter than the second finest stride."""
    least = strides.unique()[:2][-1]
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    half = (high - low).clamp_min(least) / 2
    centre = (low + high) / 2
    return torch.cat([centre - half, centre + half], -1)


def _centres_inside(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return `[R, M, A]` bool, which centres lie strictly within which box."""
    x, y = points.unbind(-1)
    left, top, right, bottom = boxes_xyxy[..., None, :].unbind(-1)  # [R, M, 1]
    inside = (x - left > _EPS) & (y - top > _EPS)
    return inside & (right - x > _EPS) & (bottom - y > _EPS)


def _one_box_each(chosen: Tensor, overlaps: Tensor) -> Tensor:
    """Give anchors that several boxes chose to the box that they overlap most."""
    most = torch.zeros_like(chosen).scatter_(1, overlaps.max(1, keepdim=True).indices, True)
    return torch.where(chosen.sum(1, keepdim=True) > 1, most, chosen)


def _target_scores(chosen: Tensor, alignment: Tensor, overlaps: Tensor) -> Tensor:
    """Return `[R, A]`."""
    alignment, overlaps = alignment * chosen, overlaps * chosen
    scale = overlaps.amax(-1, keepdim=True) / (alignment.amax(-1, keepdim=True) + _EPS)
    return (alignment * scale).amax(1)


def _positives(quality: Tensor, foreground: Tensor, chosen: Tensor) -> Assignment:
    rows, anchors = foreground.nonzero(as_tuple=True)
    truth = chosen.transpose(1, 2)[rows, anchors].int().argmax(-1) if len(rows) else rows
    return Assignment(rows, anchors, truth, quality[rows, anchors], foreground)
