"""An object cut out of a frame, at one size, with its outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_dvis.drawing.shapes import outline

if TYPE_CHECKING:
    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.shapes import Shape

Box = tuple[int, int, int, int]  # xyxy in frame pixels, right and bottom exclusive

_MARGIN = 0.18  # of the box's longer side, on each side of it
_SMALLEST = 24  # frame pixels that a crop shows at least
_SURROUNDINGS = 0.72  # how bright what is not the object stays
_BEYOND = 236  # grey of what lies beyond the frame
_FINE = 2  # crops are drawn this much larger, so that outlines are smooth


def crop_box(box_xyxy: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """Return a square around a box, with a margin.

    It is moved into the frame of `size` height and width; where it is larger it juts out.
    """
    left, top, right, bottom = box_xyxy
    side = round(max(max(right - left, bottom - top) * (1 + 2 * _MARGIN), _SMALLEST))
    x = _within(round((left + right - side) / 2), side, size[1])
    y = _within(round((top + bottom - side) / 2), side, size[0])
    return x, y, x + side, y + side


def _within(start: int, side: int, length: int) -> int:
    if side >= length:
        return (length - side) // 2
    return min(max(start, 0), length - side)


def object_crop(frame: Picture, shape: Shape, colour: Colour, side: int) -> Picture:
    """Return a square picture `[side, side, 3]` of an object; its surroundings are darker."""
    box = crop_box(shape.box_xyxy, (frame.shape[0], frame.shape[1]))
    mask = np.zeros(frame.shape[:2], np.uint8)
    mask[shape.window] = shape.mask * np.uint8(255)
    inside = np.asarray(_scaled(Image.fromarray(mask), box, side * _FINE)) > 127
    picture = plain_crop(frame, box, side * _FINE)
    dark = (picture * _SURROUNDINGS).astype(np.uint8)
    picture = np.where(inside[..., None], picture, dark)
    picture[outline(inside, _FINE + 2)] = colour
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX))


def plain_crop(frame: Picture, box: Box, side: int) -> Picture:
    """Return a square part of a frame, `[side, side, 3]`; grey beyond the frame."""
    x0, y0, x1, y1 = box
    height, width = frame.shape[:2]
    part = np.full((y1 - y0, x1 - x0, 3), _BEYOND, np.uint8)
    rows, columns = slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width))
    part[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = frame[
        rows, columns
    ]
    return np.array(_scaled(Image.fromarray(part), (0, 0, x1 - x0, y1 - y0), side))


def _scaled(image: Image.Image, box: Box, side: int) -> Image.Image:
    cut = image.crop(box)
    how = Image.Resampling.LANCZOS if cut.width > side else Image.Resampling.BICUBIC
    return cut.resize((side, side), how)
