"""Zero-mean normalised cross-correlation of colour images with masked templates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.fft import next_fast_len
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_FINE = 4  # cells a pixel, where a turned box is measured
_LEAST = (2 / 255) ** 2  # variance below which a patch counts as flat


@dataclass(frozen=True)
class Templates:
    """Cut-outs on one canvas.

    Args:
        pixels: `[T, 3, P, P]`, P odd.
        masks: `[T, P, P]`, 0 or 1.
        boxes: `[T, 4]`, the object's bounding box, xyxy from the canvas' centre, template pixels.
        side: Longer side of the object before it was turned, template pixels.
    """

    pixels: Tensor
    masks: Tensor
    boxes: Tensor
    side: int

    def __getitem__(self, part: slice) -> Templates:
        return Templates(self.pixels[part], self.masks[part], self.boxes[part], self.side)


def masked_ncc(image: Tensor, templates: Templates, *, contrast: bool = False) -> Tensor:
    """Return the correlation coefficient `[T, H, W]` of each template centred at each pixel.

    Pearson's coefficient of two lists of numbers: the template's colour values within its mask, all
    channels together, and the image's below them. It knows no gain and no offset, but, unlike a
    coefficient of channels apart, colours. A template or a patch of one value correlates with
    nothing: 0. Beyond its border the image has its mean value.

    Source: Lewis, "Fast Normalized Cross-Correlation", Vision Interface 1995, eq. 2, by Fourier
    transforms; contrast: Wang et al., "Image quality assessment", TIP 2004, eq. 9 with C2 = 0.

    Args:
        image: `[3, H, W]`, RGB 0..1.
        templates: T of them.
        contrast: Multiply by 2 a b / (a^2 + b^2), a and b the deviations of template and patch:
            a patch that looks alike, but is fainter, is less of a match.
    """
    masks, fourier = templates.masks, _Correlator(image, templates.masks.shape[-1])
    counts = (3 * masks.sum((1, 2)).clamp_min(1))[:, None, None]  # [T, 1, 1]
    means = (templates.pixels * masks[:, None]).sum((1, 2, 3))[:, None, None, None]
    centred = (templates.pixels - means / counts[..., None]) * masks[:, None]
    shifted = image - image.mean()
    both = fourier(shifted, centred)
    sums = fourier(shifted.sum(0, keepdim=True), masks[:, None])
    squares = fourier(shifted.square().sum(0, keepdim=True), masks[:, None])
    of_image = (squares - sums.square() / counts).clamp_min(0)
    of_template = centred.square().sum((1, 2, 3))[:, None, None]
    flat = (of_image < _LEAST * counts) | (of_template < _LEAST * counts)
    product = (of_image * of_template).sqrt().where(~flat, 1.0)
    score = (both / product).clamp(-1, 1)
    if contrast:
        score = score * 2 * product / (of_image + of_template).clamp_min(1e-12)
    return torch.where(flat, 0.0, score)


class _Correlator:
    """Sums of products of an image with templates, centred at each pixel.

    Args:
        image: Its size and device.
        canvas: Side of the templates, odd.
    """

    def __init__(self, image: Tensor, canvas: int) -> None:
        self._size, self._half = image.shape[1:], canvas // 2
        self._shape = [next_fast_len(side + canvas - 1, real=True) for side in self._size]

    def __call__(self, image: Tensor, templates: Tensor) -> Tensor:
        """Return `[T, H, W]` of an image `[C, H, W]`, 0 beyond, and templates `[T, C, P, P]`."""
        moved = torch.fft.rfft2(image, s=self._shape)  # [C, …]
        kernels = torch.fft.rfft2(templates, s=self._shape).conj()  # [T, C, …]
        sums = torch.fft.irfft2((moved * kernels).sum(1), s=self._shape)
        height, width = self._size
        return sums.roll((self._half, self._half), (1, 2))[:, :height, :width]


def cut_templates(photos: Tensor, masks: Tensor, side: int, rotations: int) -> Templates:
    """Return every photo's object in every rotation, its longer side `side` pixels.

    Args:
        photos: `[K, 3, H, W]`, RGB 0..1.
        masks: `[K, H, W]`, above .5 where the object is; a photo without any is all object.
        side: Of the upright object.
        rotations: Evenly spaced in the plane.
    """
    canvas = 2 * math.ceil(side * math.sqrt(2) / 2) + 1
    angles = torch.arange(rotations) * 2 * math.pi / rotations
    cut = [_upright(photo, mask, side) for photo, mask in zip(photos, masks, strict=True)]
    turned = [_turn(pixels, mask, float(a), canvas) for pixels, mask in cut for a in angles]
    return Templates(*(torch.stack(parts) for parts in zip(*turned, strict=True)), side=side)


def _extent(mask: Tensor) -> tuple[int, int, int, int]:
    """Return the bounding box of a mask's foreground, xyxy; the whole where there is none."""
    rows, columns = (mask > 0.5).any(1).nonzero(), (mask > 0.5).any(0).nonzero()
    if not len(rows):
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _upright(photo: Tensor, mask: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the object's bounding box, resized: pixels `[3, h, w]` and soft mask `[h, w]`."""
    x0, y0, x1, y1 = _extent(mask)
    pixels, own = photo[:, y0:y1, x0:x1], mask[y0:y1, x0:x1]
    own = (
        own.to(photo.dtype) if bool((own > 0.5).any()) else torch.ones_like(photo[0, y0:y1, x0:x1])
    )
    scale = side / max(own.shape)
    size = [max(round(length * scale), 2) for length in own.shape]
    # Weighted by the mask, so that no background colour bleeds into the border.
    joined = torch.cat([pixels * own, own[None]])[None]
    small = functional.interpolate(joined, size, mode="bilinear", antialias=True)[0]
    return small[:3] / small[3:].clamp_min(1e-3), small[3]


def _turn(pixels: Tensor, mask: Tensor, angle: float, canvas: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the object turned about its middle on a square canvas, its mask, and its box."""
    shown, inside = _turned(torch.cat([pixels, mask[None]]), angle, canvas)
    own = ((shown[3] > 0.5) & inside).to(pixels.dtype)
    fine, within = _turned(mask[None], angle, canvas, _FINE)
    box = mask.new_tensor(_extent((fine[0] > 0.5) & within)) / _FINE - canvas / 2
    return shown[:3], own, box


def _turned(values: Tensor, angle: float, canvas: int, fine: int = 1) -> tuple[Tensor, Tensor]:
    """Return values `[C, h, w]` turned on a canvas of `fine` cells a pixel, and what they cover."""
    height, width = values.shape[1:]
    cos, sin = canvas * math.cos(angle), canvas * math.sin(angle)
    matrix = values.new_tensor([[cos / width, -sin / width, 0], [sin / height, cos / height, 0]])
    size = [1, len(values), canvas * fine, canvas * fine]
    grid = functional.affine_grid(matrix[None], size, align_corners=False)
    turned = functional.grid_sample(values[None], grid, padding_mode="border", align_corners=False)
    return turned[0], (grid.abs() <= 1).all(-1)[0]
