"""Random changes of training frames and reference photos, by torchvision's transforms."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEAST_SIDE, _LEAST_VISIBLE = 4.0, 0.3  # pixels, and share of a box's area, that keep an object


@dataclass(frozen=True)
class Strength:
    """How often a training frame is changed, 0..1 each.

    Args:
        turn: One of the square's eight (without mirror images: four) symmetries.
        mirror: Left and right exchanged.
        affine: Rotated up to 5 degrees, moved up to 10 %, scaled .8 to 1.2.
        planckian: Lit by a black body of another temperature.
        colour: Hue and saturation.
        light: Brightness and contrast.
        blur: Out of focus.
        noise: Gaussian.
        erase: A rectangle is lost.
    """

    turn: float = 0.0
    mirror: float = 0.0
    affine: float = 0.0
    planckian: float = 0.0
    colour: float = 0.0
    light: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0


# A base detector sees the most, fine-tuning on the target domain the least.
STAGES = {
    1: Strength(0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 0.2, 0.2, 0.2),
    2: Strength(turn=0.3, affine=0.3, planckian=0.2, colour=0.3, light=0.3, blur=0.1),
    3: Strength(mirror=0.5, affine=0.2, planckian=0.1, colour=0.2, light=0.2, blur=0.05),
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed within the block, and from where one stood behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def augment_frame(
    pixels: Tensor, boxes: Tensor, strength: Strength, pad: tuple[int, int, int], *, hflip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a changed frame, its boxes, and which boxes are left, from torch's generator.

    Boxes are clipped; one that is less than 4 px wide or high, or less than 30 % visible, goes.

    Args:
        pixels: `[3, S, S]` uint8.
        boxes: `[M, 4]`, xyxy pixels.
        strength: How often what is done.
        pad: Colour of what comes in from outside, 0..255.
        hflip: Whether mirror images are legal.
    """
    if _happens(strength.turn):
        pixels, boxes = turned(pixels, boxes, int(torch.randint(8 if hflip else 4, ())))
    elif hflip and _happens(strength.mirror):
        pixels, boxes = turned(pixels, boxes, 4)
    side = pixels.shape[-1]
    image = tv_tensors.Image(pixels)
    framed = tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]  # its stubs are older
        boxes.reshape(-1, 4), format="XYXY", canvas_size=(side, side), clamping_mode=None
    )
    image, framed = _frame_changes(strength, pad)(image, framed)
    changed = v2.RandomErasing(strength.erase, (0.02, 0.08))(image.as_subclass(Tensor))
    if _happens(strength.planckian):
        changed = lit_by(changed, float(torch.empty(()).uniform_(3500, 12000)))
    moved = framed.as_subclass(Tensor)
    clipped = moved.clamp(0, side)
    return changed, clipped, visible(moved, clipped)


def visible(boxes: Tensor, clipped: Tensor) -> Tensor:
    """Return `[M]` bool, which boxes show enough of their object once they are clipped."""
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(1) / before.prod(1).clamp_min(1e-6)
    return (sides.amin(1) >= _LEAST_SIDE) & (share >= _LEAST_VISIBLE)


def turned(pixels: Tensor, boxes: Tensor, symmetry: int) -> tuple[Tensor, Tensor]:
    """Return a square image and its boxes under one of the square's eight symmetries.

    Args:
        pixels: `[3, S, S]`.
        boxes: `[M, 4]`, xyxy pixels.
        symmetry: 0 to 3: so many quarters counterclockwise; 4 to 7: mirrored left to right before.
    """
    side = pixels.shape[-1]
    x1, y1, x2, y2 = boxes.reshape(-1, 4).unbind(1)
    if symmetry >= 4:
        pixels, x1, x2 = pixels.flip(-1), side - x2, side - x1
    for _ in range(symmetry % 4):
        x1, y1, x2, y2 = y1, side - x2, y2, side - x1
    return torch.rot90(pixels, symmetry % 4, (-2, -1)), torch.stack([x1, y1, x2, y2], 1)


def black_body_rgb(kelvin: float) -> tuple[float, float, float]:
    """Return the linear sRGB of a black body, the brightest channel 1.

    Source: Kim et al., "Design of advanced color temperature control system for HDTV
    applications", J. Korean Physical Society 41(6), 2002: cubic fits of the Planckian locus.

    Args:
        kelvin: Temperature, 1667 to 25000.
    """
    t = 1e3 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    xyz = (x / y, 1.0, (1 - x - y) / y)
    matrix = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))
    red, green, blue = (sum(a * b for a, b in zip(row, xyz, strict=True)) for row in matrix)
    top = max(red, green, blue)
    return max(red, 0.0) / top, max(green, 0.0) / top, max(blue, 0.0) / top


def lit_by(pixels: Tensor, kelvin: float) -> Tensor:
    """Return an image `[3, H, W]` uint8 as if lit by a black body instead of daylight (6500 K).

    Green stays. Values are gamma-coded, so ratios of light count by their 2.2nd root. After Zini
    et al., "Planckian jitter", ICLR 2023, which multiplies coded values by the ratios themselves.
    """
    red, green, blue = black_body_rgb(kelvin)
    day_red, day_green, day_blue = black_body_rgb(6500)
    gains = [(red / green) / (day_red / day_green), 1.0, (blue / green) / (day_blue / day_green)]
    gain = torch.tensor(gains).pow(1 / 2.2)[:, None, None]
    return (pixels * gain).round().clamp(0, 255).to(torch.uint8)


def _happens(share: float) -> bool:
    return bool(torch.rand(()) < share)


@lru_cache(maxsize=8)
def _frame_changes(strength: Strength, pad: tuple[int, int, int]) -> v2.Transform:
    affine = v2.RandomAffine(
        [-5.0, 5.0],
        (0.1, 0.1),
        (0.8, 1.2),
        interpolation=InterpolationMode.BILINEAR,
        fill=list(pad),
    )
    return v2.Compose(
        [
            v2.RandomApply([affine], strength.affine),
            v2.RandomApply([v2.ColorJitter(saturation=0.5, hue=0.02)], strength.colour),
            v2.RandomApply([v2.ColorJitter(0.3, 0.3)], strength.light),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], strength.blur),
            v2.RandomApply([v2.GaussianNoise(sigma=0.03)], strength.noise),
        ]
    )


@lru_cache(maxsize=8)
def _photo_changes(side: int, pad: tuple[int, int, int], *, strong: bool) -> v2.Transform:
    cut = v2.RandomResizedCrop(side, (0.8, 1.0), (0.9, 1.1))
    changes: list[v2.Transform] = [
        v2.RandomApply([cut], 0.3),
        v2.RandomApply([v2.ColorJitter(saturation=0.5, hue=0.02)], 0.3),
        v2.RandomApply([v2.ColorJitter(0.3, 0.3)], 0.3),
    ]
    if strong:
        fill = {tv_tensors.Image: list(pad), tv_tensors.Mask: 0}
        affine = v2.RandomAffine(
            [-15.0, 15.0],
            (0.1, 0.1),
            (0.8, 1.2),
            interpolation=InterpolationMode.BILINEAR,
            fill=fill,
        )
        changes += [v2.RandomApply([affine], 0.3)]
        changes += [v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], 0.1)]
        changes += [v2.RandomApply([v2.GaussianNoise(sigma=0.03)], 0.1)]
    return v2.Compose(changes)


def augment_photo(
    pixels: Tensor, mask: Tensor, pad: tuple[int, int, int], *, strong: bool, hflip: bool
) -> tuple[Tensor, Tensor]:
    """Return a changed photo and its mask, from torch's generator.

    Args:
        pixels: `[3, S, S]` uint8.
        mask: `[S, S]` bool, all False where it is unknown.
        pad: Colour of what comes in from outside, 0..255.
        strong: Moved, blurred and noisy as well.
        hflip: Whether mirror images are legal.
    """
    if hflip and _happens(0.3):
        pixels, mask = pixels.flip(-1), mask.flip(-1)
    changes = _photo_changes(pixels.shape[-1], pad, strong=strong)
    image, seen = changes(tv_tensors.Image(pixels), tv_tensors.Mask(mask[None]))
    return image.as_subclass(Tensor), seen.as_subclass(Tensor)[0]
