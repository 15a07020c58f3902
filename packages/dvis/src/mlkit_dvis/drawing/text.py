"""Text in pictures: names from data are drawn as they are, whatever letters they hold."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlkit_core.errors import BuildError
from mlkit_dvis.drawing.colours import ink

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlkit_dvis.drawing.colours import Colour

_LONGEST = 48
# Faces that systems have, for many scripts; Pillow's own, the last resort, knows ASCII only.
_FACES = {
    False: ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf"),
    True: ("DejaVuSans-Bold.ttf", "NotoSans-Bold.ttf", "LiberationSans-Bold.ttf", "Arialbd.ttf"),
}


def plain(text: str, longest: int = _LONGEST) -> str:
    """Return text on one line, without control and direction marks, cut to a length."""
    spaced = " ".join(text.split())
    kept = "".join(c for c in spaced if not unicodedata.category(c).startswith("C"))
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def file_stem(name: str) -> str:
    """Return a name from data as part of a file's name: no separators, 80 characters."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")[:80]


@lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font by its height in pixels."""
    for name in _FACES[bold]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise BuildError("pillow was built without FreeType", hint="install its wheel from PyPI")
    return face


def text_width(text: str, size: int, *, bold: bool = False) -> float:
    """Return how many pixels a line takes."""
    return font(size, bold=bold).getlength(text)


def fitted(text: str, size: int, width: float, *, bold: bool = False) -> str:
    """Return a line that is cut, with dots, to fit a width in pixels."""
    text = plain(text)
    if text_width(text, size, bold=bold) <= width:
        return text
    while text and text_width(text + "…", size, bold=bold) > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=256)
def tag(text: str, colour: Colour, size: int) -> npt.NDArray[np.uint8]:
    """Return a line on a box of a colour, `[h, w, 4]` RGBA with round corners."""
    face, pad = font(size), max(2, size // 4)
    ascent, descent = face.getmetrics()
    width, height = round(face.getlength(text)) + 2 * pad, ascent + descent + pad
    image = Image.new("RGBA", (max(width, 1), height), (*colour, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), size // 4, fill=(*colour, 235))
    draw.text((pad, pad // 2), text, fill=(*ink(colour), 255), font=face)
    return np.asarray(image)


def paste(
    picture: npt.NDArray[np.uint8], stamp: npt.NDArray[np.uint8], top: int, left: int
) -> None:
    """Draw `stamp [h, w, 4]` RGBA on `picture [H, W, 3]` in place; what juts out is cut."""
    height, width = picture.shape[:2]
    rows = slice(max(top, 0), min(top + stamp.shape[0], height))
    columns = slice(max(left, 0), min(left + stamp.shape[1], width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    cut = stamp[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = cut[..., 3:].astype(np.uint16)
    under = picture[rows, columns]
    mixed = (under * (255 - alpha) + cut[..., :3] * alpha + 127) // 255
    picture[rows, columns] = mixed.astype(np.uint8)
