"""Pictures of what was found: boxes on frames, and a sheet of the best ones beside the photos."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.search.motion import Xyxy

Colour = tuple[int, int, int]

# Colours that red-green blindness tells apart: Okabe and Ito, "Color Universal Design", 2008.
_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
)
_TILE, _CAPTION, _GAP = 160, 18, 6
_LEAST_CROP = 24.0  # frame pixels that a crop shows at least
_LONGEST = 40  # letters of a name
# Faces that systems have; Pillow's own, the last resort, knows few scripts.
_FACES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")


@dataclass(frozen=True)
class Drawn:
    """A box on a frame.

    Args:
        label: The object; it decides the colour.
        box: xyxy, pixels.
        text: Above it.
        seen: Whether it was detected in this frame; a bridged one is thin.
    """

    label: int
    box: Xyxy
    text: str
    seen: bool = True


def colour(label: int) -> Colour:
    """Return an object's colour."""
    return _COLOURS[label % len(_COLOURS)]


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font by its height in pixels."""
    for name in _FACES:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Return text on one line, without control and direction marks, cut to a length."""
    kept = "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")
    return kept if len(kept) <= _LONGEST else kept[: _LONGEST - 1] + "…"


def boxed(frame: Pixels, boxes: Sequence[Drawn]) -> Pixels:
    """Return a frame with boxes drawn on a copy."""
    if not boxes:
        return frame
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    width, face = max(2, round(max(picture.size) / 400)), font(max(11, picture.height // 50))
    for one in boxes:
        draw.rectangle(one.box, outline=colour(one.label), width=width if one.seen else 1)
        text = plain(one.text)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=face)
        x = min(max(one.box[0], 0), max(picture.width - right, 0))
        y = one.box[1] - bottom - 2
        y = y if y >= 0 else min(one.box[3] + 2, picture.height - bottom)
        draw.rectangle((x + left, y + top, x + right, y + bottom), fill=(0, 0, 0))
        draw.text((x, y), text, fill=colour(one.label), font=face)
    return np.asarray(picture)


def crop(frame: Pixels, box: Xyxy) -> Pixels:
    """Return a square around a box, twice as wide; beyond the frame it is grey."""
    half = max(box[2] - box[0], box[3] - box[1], _LEAST_CROP / 2)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    around = (round(x - half), round(y - half), round(x + half), round(y + half))
    canvas = Image.new("RGB", (around[2] - around[0], around[3] - around[1]), (225, 225, 225))
    canvas.paste(Image.fromarray(frame), (-around[0], -around[1]))
    return np.asarray(canvas)


@dataclass(frozen=True)
class Tile:
    """A picture of the sheet, with what is written under it."""

    pixels: Pixels
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """An object on the sheet.

    Args:
        name: Of the object.
        label: Decides the colour.
        photos: The references.
        found: The best hits.
    """

    name: str
    label: int
    photos: Sequence[Tile]
    found: Sequence[Tile]


def contact_sheet(rows: Sequence[Row], path: Path) -> None:
    """Write for each object its photos, and after a bar in its colour the best hits."""
    left = max((len(row.photos) for row in rows), default=0)
    right = max((len(row.found) for row in rows), default=0)
    cell, height = _TILE + _GAP, _TILE + 2 * _CAPTION + _GAP
    width = (left + max(right, 2)) * cell + 3 * _GAP
    sheet = Image.new("RGB", (width, max(1, len(rows)) * height), "white")
    for number, row in enumerate(rows):
        top, bar = number * height, left * cell + _GAP
        draw = ImageDraw.Draw(sheet)
        draw.text((_GAP, top + 2), plain(row.name), fill=(0, 0, 0), font=font(13))
        if not row.found:
            draw.text((bar + 2 * _GAP, top + _TILE // 2), "not found", fill=(90, 90, 90))
        draw.rectangle((bar, top + 2, bar + 3, top + height - 4), fill=colour(row.label))
        for column, tile in enumerate(row.photos):
            _place(sheet, tile, (_GAP + column * cell, top + _CAPTION))
        for column, tile in enumerate(row.found):
            _place(sheet, tile, (bar + 2 * _GAP + column * cell, top + _CAPTION))
    sheet.save(path)


def _place(sheet: Image.Image, tile: Tile, place: tuple[int, int]) -> None:
    image = Image.fromarray(tile.pixels)
    scale = _TILE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    sheet.paste(small, (place[0] + (_TILE - size[0]) // 2, place[1] + (_TILE - size[1]) // 2))
    draw = ImageDraw.Draw(sheet)
    draw.text((place[0], place[1] + _TILE + 1), tile.caption, fill=(70, 70, 70), font=font(11))
