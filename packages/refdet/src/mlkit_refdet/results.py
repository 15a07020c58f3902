"""What refdet's head gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.types import HeadOutput

if TYPE_CHECKING:
    from torch import Tensor

BINS = 16  # of a side's distance, 0..15 strides


@dataclass(frozen=True)
class BranchLogits:
    """One branch's dense output.

    Args:
        distances: `[R, A, 4 * BINS]`, logits of the distances left, top, right, bottom, in bins.
        logits: `[R, A, C]`, before the sigmoid.
    """

    distances: Tensor
    logits: Tensor


@dataclass(frozen=True)
class ReferenceLogits(HeadOutput):
    """Dense detections of the standard branch, the prototype branch, or both.

    Args:
        points: `[A, 2]`, x and y of the cells' centres, input pixels.
        strides: `[A]`, input pixels per cell.
        standard: Rows are images, R = B; C the data's classes. None: no such branch.
        pairs: Rows are image and asked class, image by image, R = B * W; C = 1. None: likewise.
        asked: `[B, W]` long, support class of each pair, -1 where there is none.
    """

    points: Tensor
    strides: Tensor
    standard: BranchLogits | None = None
    pairs: BranchLogits | None = None
    asked: Tensor | None = None
