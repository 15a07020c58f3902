"""Label maps: masks of several classes as shares of pixels, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def channels(labels: Tensor, count: int) -> Tensor:
    """Return a label map `[1, H, W]` as one map of 0 and 1 for each class, `[count, H, W]`."""
    numbers = torch.arange(1, count + 1, dtype=labels.dtype).view(-1, 1, 1)
    return (labels == numbers).to(labels.dtype)


def labels_of(shares: Tensor) -> Tensor:
    """Return the label map `[1, H, W]` of classes' shares `[count, H, W]`.

    A pixel is foreground where all classes together hold half of it, and then of the class with
    the largest share; of one class that is the mask where it holds half.
    """
    together = shares.sum(0, keepdim=True)
    largest = shares.argmax(0, keepdim=True) + 1
    return torch.where(together >= 0.5, largest.to(shares.dtype), torch.zeros_like(together))


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a model: `vessel` alone, or the background and the named ones."""
    return ("background", *classes) if classes else ("vessel",)
