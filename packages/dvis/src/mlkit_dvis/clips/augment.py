"""Random changes of a clip: drawn as views first, then applied to frames and masks alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as geometry

from mlkit_dvis.clips.pixels import resize_frames, resize_masks
from mlkit_dvis.clips.sizes import fitted, resized

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mlkit_dvis.clips.sizes import Size

_LONGEST_BEFORE_CROP = 1333
_CENTRE = (0.4, 0.6)  # of a rotation, as a share of the sides
_TRIES = 10  # views that are drawn until one shows an instance; the last resort has no crop


@dataclass(frozen=True)
class ViewRange:
    """Which views are drawn; sizes in pixels.

    Args:
        short_sides: One of them becomes the shorter side.
        longest: Of the longer side.
        cap: Height and width that a view never exceeds; None: any.
        flip: How often left and right are exchanged, 0..1.
        crop: How often a crop comes first, 0..1.
        crop_sides: One of them is the shorter side before the crop.
        crop_range: Smallest and largest side of the crop.
        rotation_deg: Of still images, ±.
    """

    short_sides: Sequence[int]
    longest: int
    cap: Size | None = None
    flip: float = 0.0
    crop: float = 0.0
    crop_sides: Sequence[int] = ()
    crop_range: tuple[int, int] = (1, 1)
    rotation_deg: float = 0.0


@dataclass(frozen=True)
class View:
    """How a frame becomes an input: resized, cropped, resized again, mirrored, turned.

    Args:
        size: Height and width of the input in pixels.
        before: Size of the frame before the crop.
        crop: Top, left, height and width within `before`; None: all of it.
        flip: Whether left and right are exchanged.
        angle_deg: Counterclockwise rotation of the input.
        centre: Of the rotation, x and y as shares of the input's sides.
    """

    size: Size
    before: Size | None = None
    crop: tuple[int, int, int, int] | None = None
    flip: bool = False
    angle_deg: float = 0.0
    centre: tuple[float, float] = (0.5, 0.5)


def draw_view(limits: ViewRange, size: Size, generator: random.Random) -> View:
    """Return a random view of frames of a size; it holds for all frames of a clip."""
    view = View(size)
    if generator.random() < limits.crop:
        before = resized(size, generator.choice(limits.crop_sides), _LONGEST_BEFORE_CROP)
        low, high = limits.crop_range
        sides = [generator.randint(min(low, side), min(high, side)) for side in before]
        crop = (*_place(before, sides, generator), sides[0], sides[1])
        view = replace(view, before=before, crop=crop)
        size = (sides[0], sides[1])
    size = resized(size, generator.choice(limits.short_sides), limits.longest)
    size = size if limits.cap is None else fitted(size, limits.cap)
    return replace(view, size=size, flip=generator.random() < limits.flip)


def _place(size: Size, sides: Sequence[int], generator: random.Random) -> tuple[int, int]:
    """Return the top and left of a random crop."""
    top, left = (generator.randint(0, side - part) for side, part in zip(size, sides, strict=True))
    return top, left


def draw_still_views(
    limits: ViewRange, size: Size, count: int, generator: random.Random
) -> list[View]:
    """Return the views that make a clip of a still image.

    Sizes and mirroring are drawn once, so that frames are of one size and one world; where the
    crop lies and how the frame is turned is drawn for each, so that the image moves.
    """
    whole = draw_view(limits, size, generator)
    views: list[View] = []
    for _ in range(count):
        view = whole
        if whole.before is not None and whole.crop is not None:
            sides = whole.crop[2:]
            crop = (*_place(whole.before, sides, generator), *sides)
            view = replace(view, crop=crop)
        angle = generator.uniform(-limits.rotation_deg, limits.rotation_deg)
        centre = (generator.uniform(*_CENTRE), generator.uniform(*_CENTRE))
        views.append(replace(view, angle_deg=angle, centre=centre))
    return views


def shown_views(
    draw: Callable[[ViewRange], Sequence[View]], limits: ViewRange, masks: Tensor
) -> tuple[Sequence[View], Tensor]:
    """Return drawn views in which an instance is seen, and the masks in them.

    Args:
        draw: Gives random views.
        limits: What it draws from; without the crop, where no crop shows an instance.
        masks: `[T, M, H, W]` uint8.
    """
    for _ in range(_TRIES):
        views = draw(limits)
        seen = view_masks(masks, views)
        if seen.any():
            return views, seen
    views = draw(replace(limits, crop=0.0))
    return views, view_masks(masks, views)


def view_frames(frames: Tensor, views: Sequence[View], fill: Sequence[float]) -> Tensor:
    """Return frames as they are seen.

    Args:
        frames: `[T, 3, H, W]` uint8; of one frame where there are more views.
        views: One for all frames, or one for each.
        fill: RGB 0..255 of what a rotation uncovers.
    """
    return _viewed(frames, views, lambda part, view: _frame_view(part, view, fill))


def view_masks(masks: Tensor, views: Sequence[View]) -> Tensor:
    """Return masks `[T, M, H, W]` uint8 as they are seen; see `view_frames`."""
    return _viewed(masks, views, _mask_view)


def _viewed(stack: Tensor, views: Sequence[View], seen: Callable[[Tensor, View], Tensor]) -> Tensor:
    if len(views) == 1:
        return seen(stack, views[0])
    parts = stack.split(1) if len(stack) > 1 else [stack] * len(views)
    return torch.cat([seen(part, view) for part, view in zip(parts, views, strict=True)])


def _frame_view(frames: Tensor, view: View, fill: Sequence[float]) -> Tensor:
    frames = resize_frames(_cut(frames, view, resize_frames), view.size)
    frames = frames.flip(-1) if view.flip else frames
    if not view.angle_deg:
        return frames
    mode = geometry.InterpolationMode.BILINEAR
    return geometry.rotate(frames, view.angle_deg, mode, center=_centre(view), fill=list(fill))


def _mask_view(masks: Tensor, view: View) -> Tensor:
    masks = resize_masks(_cut(masks, view, resize_masks), view.size)
    masks = masks.flip(-1) if view.flip else masks
    if not view.angle_deg:
        return masks
    return geometry.rotate(masks, view.angle_deg, center=_centre(view))


def _cut(stack: Tensor, view: View, resize: Callable[[Tensor, Size], Tensor]) -> Tensor:
    if view.before is None or view.crop is None:
        return stack
    top, left, height, width = view.crop
    return resize(stack, view.before)[..., top : top + height, left : left + width]


def _centre(view: View) -> list[float]:
    return [view.centre[0] * view.size[1], view.centre[1] * view.size[0]]
