"""Objects cut out of reference photos, put onto frames that show none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from mlkit_refdet.episodes.foreground import CutOut

_TILT_DEG = 25.0
_LIGHT = (0.7, 1.2)  # factors of brightness
_LEAST_VISIBLE = 0.5  # alpha from which a pixel counts for the box


def paste(
    pixels: Tensor, cut: CutOut, limits: tuple[int, int], *, hflip: bool
) -> tuple[Tensor, Tensor]:
    """Return a frame with an object on it and the object's box, from torch's generator.

    Sizes are drawn evenly in logarithm; it is tilted, mirrored, darkened or brightened, softened
    at its edge, and lies wholly within the frame.

    Args:
        pixels: `[3, S, S]` uint8.
        cut: The object.
        limits: Smallest and largest longer side in pixels, before it is tilted.
        hflip: Whether mirror images are legal.

    Returns:
        The frame, and the box `[4]`, xyxy pixels, of what can be seen of the object.
    """
    layers = torch.cat(
        [torch.from_numpy(cut.rgb.copy()).float(), torch.from_numpy(cut.alpha.copy())[..., None]], 2
    ).permute(2, 0, 1)  # [4, h, w]
    layers[:3] *= layers[3]  # premultiplied: nothing of the old background bleeds in
    layers = _shaped(layers, limits, pixels.shape[-1], hflip=hflip)
    colours, alpha = layers[:3] * _between(*_LIGHT), layers[3]
    height, width = alpha.shape
    top, left = (int(torch.randint(pixels.shape[-1] - part + 1, ())) for part in (height, width))
    frame = pixels.float()
    window = frame[:, top : top + height, left : left + width]
    window.copy_((window * (1 - alpha) + colours).clamp(0, 255))
    return frame.round().to(torch.uint8), _box(alpha, top, left)


def _shaped(layers: Tensor, limits: tuple[int, int], side: int, *, hflip: bool) -> Tensor:
    """Return the layers at a random size and tilt, no larger than the frame."""
    low, high = (torch.tensor(float(limit)).log() for limit in limits)
    longest = float(torch.empty(()).uniform_(float(low), float(high)).exp())
    height, width = layers.shape[-2:]
    scale = min(longest, 0.6 * side) / max(height, width)
    size = [max(2, round(height * scale)), max(2, round(width * scale))]
    layers = functional.resize(layers, size, antialias=True)
    if hflip and torch.rand(()) < 0.5:
        layers = layers.flip(-1)
    layers = functional.rotate(
        layers, _between(-_TILT_DEG, _TILT_DEG), InterpolationMode.BILINEAR, expand=True, fill=[0.0]
    )
    return functional.gaussian_blur(layers, [3, 3], [_between(0.2, 0.8)])


def _box(alpha: Tensor, top: int, left: int) -> Tensor:
    seen = alpha >= min(_LEAST_VISIBLE, float(alpha.max()))
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    ends = [columns[0] + left, rows[0] + top, columns[-1] + left + 1, rows[-1] + top + 1]
    return torch.stack(ends).float()


def _between(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
