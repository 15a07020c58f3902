"""What batches of refdet are compared with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from mlkit_core.types import BoxTarget, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ReferenceTarget(BoxTarget):
    """Boxes of query images; `labels [B, M]` are indices of the batch's support classes, or -1.

    Objects of a class that is not in the batch's support are left out: they are background here.

    Args:
        class_ids: `[N]`, each support class's index in the data's `classes`, for losses that
            compare classes over the run and for metrics.
        category_ids: `[N]`, the kind of thing; two objects may share it ("Backpack_0" and
            "Backpack_1"), and are then no negatives of each other.
        background: `[B]` bool, an image that is known to show none of the support's objects.
    """

    class_ids: Tensor
    category_ids: Tensor
    background: Tensor

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> ReferenceTarget:
        """Return one box in the middle of each image, of its row's class."""
        base, every = BoxTarget.example(batch, size, classes), torch.arange(classes)
        background = torch.zeros(batch, dtype=torch.bool)
        return cls(base.boxes_xyxy, base.labels, every, every, background)


@dataclass(frozen=True)
class TripletOnlyTarget(Target):
    """Triplets over the batch's rows: anchor a support class, positive and negative query images.

    Alone it is the target of batches whose frames give no detection losses; `TripletTarget` is
    both. A loss that takes either asks for this one.

    Args:
        boxes_xyxy: `[B, M, 4]`, input pixels.
        labels: `[B, M]`, support class; -1 where the row is padding.
        class_ids: `[N]`, as of `ReferenceTarget`.
        category_ids: `[N]`, as of `ReferenceTarget`.
        background: `[B]` bool, as of `ReferenceTarget`.
        anchors: `[T]`, support class.
        positives: `[T]`, row of an image that shows it; its boxes of that class are the positives.
        negatives: `[T]`, row of an image that does not.
        is_background: `[T]` bool, whether the negative is an empty frame; otherwise it shows an
            object of another category, whose boxes are in `boxes_xyxy` of that row.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    class_ids: Tensor
    category_ids: Tensor
    background: Tensor
    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    is_background: Tensor

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> TripletOnlyTarget:
        """Return triplets whose negative is the next row's image."""
        base, rows = ReferenceTarget.example(batch, size, classes), torch.arange(batch)
        fields = (base.boxes_xyxy, base.labels, base.class_ids, base.category_ids, base.background)
        none = torch.zeros(batch, dtype=torch.bool)
        return cls(*fields, rows % classes, rows, (rows + 1) % batch, none)


@dataclass(frozen=True)
class TripletTarget(ReferenceTarget, TripletOnlyTarget):
    """Triplets whose frames give detection losses, too; its fields are those of both."""

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> TripletTarget:
        """Return triplets whose negative is the next row's image."""
        one = TripletOnlyTarget.example(batch, size, classes)
        return cls(*(getattr(one, field.name) for field in fields(one)))
