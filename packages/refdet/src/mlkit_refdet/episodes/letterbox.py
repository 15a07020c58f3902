"""Images onto a square of the padding's colour, centred, and boxes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from mlkit_core.errors import BuildError
from mlkit_core.types import Letterbox

if TYPE_CHECKING:
    from mlkit_core.types import Needs
    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Size

GREY = (114, 114, 114)  # what detectors are trained with, 0..255


def legal_side(side: int, needs: Needs, name: str) -> int:
    """Return the smallest side of a square that the model takes and that is not below `side`.

    Raises:
        BuildError: There is none; `name` is the option that asks for it.
    """
    if needs.sizes is None:
        return -(-side // needs.size_multiple) * needs.size_multiple
    fits = [size for size in sorted(needs.sizes) if size >= side]
    if not fits:
        raise BuildError(f"data.{name}: the encoders take {needs.sizes}, got {side}")
    return fits[0]


def padding(needs: Needs) -> tuple[int, int, int]:
    """Return the padding's colour, 0..255: what the encoders ask for, else grey."""
    red, green, blue = (round(255 * value) for value in needs.pad_rgb)
    return (red, green, blue) if any(needs.pad_rgb) else GREY


def fit(size: Size, side: int, longest: int | None = None) -> Letterbox:
    """Return how an original of `size` (height, width) lies in the middle of a square.

    Args:
        size: Of the original.
        side: Of the square, pixels.
        longest: Longer side of the content, pixels; None: all of the square.
    """
    height, width = size
    scale = (longest or side) / max(height, width)
    content = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = ((side - part) // 2 for part in content)
    return Letterbox(scale=scale, size=content, offset=(top, left))


def to_square(pixels: Pixels, box: Letterbox, side: int, pad: tuple[int, int, int]) -> Tensor:
    """Return an image `[H, W, 3]` uint8 on a square, `[3, side, side]` uint8."""
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    content = functional.resize(image, list(box.size), antialias=True)
    square = torch.tensor(pad, dtype=torch.uint8)[:, None, None].repeat(1, side, side)
    square[:, *box.content] = content
    return square


def mask_to_square(mask: np.ndarray, box: Letterbox, side: int) -> Tensor:
    """Return a mask `[H, W]` bool on a square, `[side, side]` bool; a pixel is what most of it is.

    An object smaller than a pixel keeps its brightest one: an empty mask would mean "unknown".
    """
    values = torch.from_numpy(np.array(mask, np.float32))[None]
    content = functional.resize(values, list(box.size), antialias=True)[0]
    square = torch.zeros(side, side, dtype=torch.bool)
    square[box.content] = content >= min(0.5, float(content.max()))
    return square if mask.any() else torch.zeros_like(square)


def boxes_to_square(xyxy: Tensor, box: Letterbox) -> Tensor:
    """Return boxes `[M, 4]` of original pixels in the square's pixels."""
    top, left = box.offset
    return xyxy * box.scale + xyxy.new_tensor([left, top, left, top])
