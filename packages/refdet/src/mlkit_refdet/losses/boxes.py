"""Overlap of boxes and the regression losses that follow from it, box by box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-7


@dataclass(frozen=True)
class Overlap:
    """How boxes lie to their partners; every tensor is `[...]`, one value for each pair.

    Args:
        iou: Intersection over union, 0..1.
        centre_distance: Squared, of the two centres.
        diagonal: Squared, of the smallest box that holds both.
    """

    iou: Tensor
    centre_distance: Tensor
    diagonal: Tensor


def overlap(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Overlap:
    """Return how each box lies to its partner; shapes `[..., 4]` broadcast."""
    (low, high), (other_low, other_high) = _corners(boxes_xyxy), _corners(others_xyxy)
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp_min(0)
    intersection = shared.prod(-1)
    union = (high - low).prod(-1) + (other_high - other_low).prod(-1) - intersection
    hull = torch.maximum(high, other_high) - torch.minimum(low, other_low)
    apart = (low + high - other_low - other_high) / 2
    return Overlap(
        iou=intersection / (union + _EPS),
        centre_distance=apart.square().sum(-1),
        diagonal=hull.square().sum(-1) + _EPS,
    )


def ciou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """Return complete IoU, `[...]`, at most 1: overlap less distance and difference of shape.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 8 to 11; the trade-off of the shape
    term has no gradient.

    Args:
        boxes_xyxy: `[..., 4]`.
        others_xyxy: `[..., 4]`.
    """
    pair = overlap(boxes_xyxy, others_xyxy)
    turn = _shape(others_xyxy) - _shape(boxes_xyxy)
    shape = 4 / math.pi**2 * turn.square()
    trade = (shape / (1 - pair.iou + shape + _EPS)).detach()
    return pair.iou - pair.centre_distance / pair.diagonal - trade * shape


def wiou_v1(pair: Overlap) -> Tensor:
    """Return the IoU loss times its distance attention, `[...]`.

    Source: Tong et al., "Wise-IoU", arXiv:2301.10051, eq. 5 and 6; the size of the enclosing box
    has no gradient.
    """
    return (pair.centre_distance / pair.diagonal.detach()).exp() * (1 - pair.iou)


def wiou_v2(pair: Overlap, mean: Tensor, gamma: float = 0.5) -> Tensor:
    """Return v1 with a monotonic focus: boxes that overlap less than others count more, `[...]`.

    Source: Tong et al., "Wise-IoU", arXiv:2301.10051, eq. 7 and 8.

    Args:
        pair: Boxes and truth.
        mean: Scalar, the running mean of the IoU loss.
        gamma: Exponent of the focus.
    """
    return (_outlier_degree(pair, mean) ** gamma) * wiou_v1(pair)


def wiou_v3(pair: Overlap, mean: Tensor, alpha: float = 1.9, delta: float = 3.0) -> Tensor:
    """Return v1 with a focus on boxes of ordinary quality: outliers count less, `[...]`.

    Source: Tong et al., "Wise-IoU", arXiv:2301.10051, eq. 9 and 10; alpha and delta as there.

    Args:
        pair: Boxes and truth.
        mean: Scalar, the running mean of the IoU loss.
        alpha: Base of the fall.
        delta: Outlier degree whose gain is 1.
    """
    degree = _outlier_degree(pair, mean)
    return degree / (delta * alpha ** (degree - delta)) * wiou_v1(pair)


class RunningMean(nn.Module):
    """Moving average that starts at its first value: sums are corrected for their start, as Adam's.

    Sum and weight are buffers that fade alike, so that an average of several states of them, as
    the trainer's moving average of weights takes, still gives a mean of what was seen.

    Args:
        momentum: Share of a new value, 0..1.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, value: Tensor) -> None:
        """Let a scalar enter the average, in place."""
        self.total.lerp_(value.to(self.total.dtype), self.momentum)
        self.weight.lerp_(torch.ones_like(self.weight), self.momentum)

    def mean(self, default: Tensor) -> Tensor:
        """Return the average, a scalar without gradient; `default` where nothing was seen."""
        seen = self.total / self.weight.clamp_min(1e-12)
        return torch.where(self.weight > 0, seen, default.detach()).clone()


def _corners(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    return boxes_xyxy[..., :2], boxes_xyxy[..., 2:]


def _shape(boxes_xyxy: Tensor) -> Tensor:
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).unbind(-1)
    return (width / (height + _EPS)).atan()


def _outlier_degree(pair: Overlap, mean: Tensor) -> Tensor:
    return (1 - pair.iou).detach() / mean.clamp_min(_EPS)
