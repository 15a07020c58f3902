"""Frames with masks, outlines and labels: every pixel by array operations on the masks' boxes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mlkit_dvis.drawing.shapes import outline
from mlkit_dvis.drawing.text import paste, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.shapes import Shape

    Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB

STRENGTH = 115  # of 256: a mask's share of the colour inside it
_CAPTION: Colour = (24, 24, 24)


@dataclass(frozen=True)
class Drawn:
    """One object of one frame.

    Args:
        shape: Where it is.
        colour: Of its track.
        label: What stands beside it; empty for nothing.
    """

    shape: Shape
    colour: Colour
    label: str = ""


def draw_objects(frame: Picture, objects: Sequence[Drawn], caption: str = "") -> Picture:
    """Return a copy of a frame with objects drawn, the first on top.

    Args:
        frame: `[H, W, 3]` RGB.
        objects: Best first: where masks overlap the first one is seen.
        caption: Stands in the lower left corner.
    """
    picture = frame.copy()
    size, line = letter_height(frame), line_width(frame)
    for drawn in reversed(objects):
        fill(picture, drawn.shape, drawn.colour)
        draw_outline(picture, drawn.shape, drawn.colour, line)
    taken: list[tuple[int, int, int, int]] = []
    for drawn in objects:
        if drawn.label:
            stamp = tag(drawn.label, drawn.colour, size)
            top, left = _free_place(drawn.shape, stamp.shape, frame.shape, taken)
            paste(picture, stamp, top, left)
    if caption:
        stamp = tag(caption, _CAPTION, size)
        paste(picture, stamp, frame.shape[0] - stamp.shape[0] - size // 2, size // 2)
    return picture


def letter_height(frame: Picture) -> int:
    """Return the font size for a frame, in pixels."""
    return int(np.clip(round(min(frame.shape[:2]) / 34), 10, 40))


def line_width(frame: Picture) -> int:
    """Return the width of outlines for a frame, in pixels."""
    return max(1, round(min(frame.shape[:2]) / 270))


def fill(picture: Picture, shape: Shape, colour: Colour, strength: int = STRENGTH) -> None:
    """Mix a colour into a mask's pixels, in place: `(old * (256 - s) + colour * s) / 256`."""
    region = picture[shape.window]
    for channel in range(3):
        values = region[..., channel]
        mixed = _mixing(colour[channel], strength)[values]
        np.copyto(values, mixed, where=shape.mask)


@lru_cache(maxsize=128)
def _mixing(value: int, strength: int) -> npt.NDArray[np.uint8]:
    old = np.arange(256)
    return ((old * (256 - strength) + value * strength) >> 8).astype(np.uint8)


def draw_outline(picture: Picture, shape: Shape, colour: Colour, width: int) -> None:
    """Colour the pixels at a mask's inner edge, in place."""
    picture[shape.window][outline(shape.mask, width)] = colour


def _free_place(
    shape: Shape,
    stamp: tuple[int, ...],
    frame: tuple[int, ...],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int]:
    """Return top and left for a label, and note it as taken.

    Above the object's highest part, else below it, else stepping down until it covers no other
    label.
    """
    left, top, _, bottom = shape.box_xyxy
    height, width = stamp[:2]
    crown = shape.mask[: max(1, len(shape.mask) // 8)]
    middle = left + round(float(np.flatnonzero(crown.any(0)).mean()))
    column = min(max(middle - width // 2, 0), max(frame[1] - width, 0))
    steps = [top - height, bottom, top, *range(top + height, frame[0] - height, height)]
    places = [row for row in steps if 0 <= row <= frame[0] - height] or [0]

    def meets(row: int) -> bool:
        return any(
            row < t + h and t < row + height and column < x + w and x < column + width
            for t, x, h, w in taken
        )

    row = next((row for row in places if not meets(row)), places[0])
    taken.append((row, column, height, width))
    return row, column
