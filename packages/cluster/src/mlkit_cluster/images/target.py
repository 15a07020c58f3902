"""The target of a batch of images: boxes as every detector's, and the objects' masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_cluster.images.annotations import GroundTruth
from mlkit_cluster.images.letterbox import to_original
from mlkit_core.errors import DataError
from mlkit_core.types import BoxTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.types import SampleMeta, Target


@dataclass(frozen=True)
class InstanceTarget(BoxTarget):
    """Boxes, classes and masks; an image of which nothing is known holds padding alone.

    Args:
        truths: What is known of each image, None where nothing is.
    """

    truths: tuple[GroundTruth | None, ...] = ()

    @classmethod
    def of(cls, truths: Sequence[GroundTruth | None]) -> InstanceTarget:
        """Return the target of a batch, padded to its longest list of objects."""
        longest = max((len(t.labels) for t in truths if t is not None), default=0)
        boxes = np.zeros((len(truths), longest, 4), np.float32)
        labels = np.full((len(truths), longest), -1, np.int64)
        for row, truth in enumerate(truths):
            if truth is not None:
                boxes[row, : len(truth.labels)] = truth.boxes_input
                labels[row, : len(truth.labels)] = truth.labels
        return cls(torch.from_numpy(boxes), torch.from_numpy(labels), tuple(truths))


def truths_of(target: Target | None, meta: Sequence[SampleMeta]) -> tuple[GroundTruth | None, ...]:
    """Return what is known of each image of a batch, None where nothing is.

    Of a plain `BoxTarget` every image counts as labelled.

    Raises:
        DataError: The target is of another kind, or an image's meta is not complete.
    """
    if target is None:
        return (None,) * len(meta)
    if isinstance(target, InstanceTarget):
        return target.truths
    if not isinstance(target, BoxTarget):
        raise DataError(f"target: expected boxes, got {type(target).__name__}")
    return tuple(
        _plain(boxes[labels >= 0], labels[labels >= 0], one)
        for boxes, labels, one in zip(target.boxes_xyxy, target.labels, meta, strict=True)
    )


def _plain(boxes: torch.Tensor, labels: torch.Tensor, meta: SampleMeta) -> GroundTruth:
    if meta.size is None or meta.letterbox is None:
        raise DataError(f"{meta.key}: meta does not say how the image became the input")
    corners = boxes.cpu().numpy().astype(np.float32)
    original = to_original(corners, meta.letterbox, meta.size)
    return GroundTruth(corners, original, labels.cpu().numpy().astype(np.int32))
