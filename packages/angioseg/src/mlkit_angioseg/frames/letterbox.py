"""Resizing to the longest side, padding at bottom and right, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from mlkit_angioseg.frames.labels import channels, labels_of
from mlkit_core.errors import BuildError
from mlkit_core.types import Letterbox

if TYPE_CHECKING:
    from mlkit_core.types import Needs, SampleMeta


def legal_side(side: int, needs: Needs, *, name: str, grow: bool) -> int:
    """Return the side of a square input that the model accepts.

    Args:
        side: What the options ask for, pixels.
        needs: Of the encoders that read the image.
        name: Of the option, for the error.
        grow: Whether a larger legal side will do; the rest is padding.

    Raises:
        BuildError: No legal side suits.
    """
    if needs.sizes is not None:
        fits = [size for size in sorted(needs.sizes) if size == side or (grow and size > side)]
    else:
        fits = [-(-side // needs.size_multiple) * needs.size_multiple]
    if fits and (grow or fits[0] == side):
        return fits[0]
    legal = needs.sizes or f"multiples of {needs.size_multiple}"
    raise BuildError(f"data.{name}: the encoders accept {legal}, got {side}")


def fit_letterbox(size: tuple[int, int], longest: int) -> Letterbox:
    """Return how an original of `size` (height, width) becomes an input of side `longest`."""
    height, width = size
    scale = longest / max(height, width)
    content = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Letterbox(scale=scale, size=content)


def resize_grey(grey: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[1, H, W]` at another size, bilinear, with averaging where it shrinks."""
    if tuple(grey.shape[-2:]) == size:
        return grey
    resized = functional.interpolate(grey[None], size, mode="bilinear", antialias=True)
    return resized[0].clamp(0, 1)


def resize_mask(mask: Tensor, size: tuple[int, int], classes: int = 1) -> Tensor:
    """Return a float mask 0 or 1, or a label map of `classes`, `[1, H, W]`, at another size.

    Shrinking averages and then asks for half, so that a pixel stands for its majority.
    """
    if tuple(mask.shape[-2:]) == size:
        return mask
    if size[0] > mask.shape[-2]:
        return functional.interpolate(mask[None], size, mode="nearest-exact")[0]
    return labels_of(functional.interpolate(channels(mask, classes)[None], size, mode="area")[0])


def pad_to(values: Tensor, side: int, fill: tuple[float, ...]) -> Tensor:
    """Return `[C, h, w]` at the top left of `[C, side, side]`; `fill` has a value per channel."""
    channels, height, width = values.shape
    if (height, width) == (side, side):
        return values
    canvas = torch.tensor(fill, dtype=values.dtype).view(channels, 1, 1).repeat(1, side, side)
    canvas[:, :height, :width] = values
    return canvas


def to_original(logits: Tensor, meta: SampleMeta) -> Tensor:
    """Return logits `[C, H, W]` of an input without padding, at the original's size.

    Raises:
        BuildError: `meta` does not say how the input came about.
    """
    if meta.size is None or meta.letterbox is None:
        raise BuildError(f"{meta.key}: meta has no original size, so masks cannot be decoded")
    content = logits[:, *meta.letterbox.content].float()
    if tuple(content.shape[-2:]) == tuple(meta.size):
        return content
    return functional.interpolate(
        content[None], tuple(meta.size), mode="bilinear", align_corners=False
    )[0]
