"""Small pictures of a run's images: sheets of 64 px cells, and larger ones where asked for."""

from __future__ import annotations

import base64
import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

CELL, SIDE = 64, 16  # pixels of a cell, cells along a sheet's side
_log = logging.getLogger("mlkit.cluster")
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises for files that are cut short or are none: they cost one picture, no report.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Pictures:
    """WebP files of a run's images.

    Args:
        sheets: Sheets of `SIDE` x `SIDE` cells; image p is cell p % 256 of sheet p // 256.
        large: Position to one larger picture.
        missing: Positions of images that could not be read; their cells are empty.
    """

    sheets: tuple[bytes, ...]
    large: Mapping[int, bytes]
    missing: tuple[int, ...]


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height scaled so that the longer is `side`, never enlarged, halves up."""
    scale = min(1.0, side / max(*size, 1))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def shrunk(path: Path, size: tuple[int, int], sides: Sequence[int]) -> list[Image.Image]:
    """Return the image, RGB and upright as in the run, fitted into each of some squares.

    Args:
        path: Of the image's file.
        size: Width and height that the run knows; they say whether EXIF's turn was applied.
        sides: Pixels, the greatest first.

    Raises:
        OSError: Or another of `BROKEN`: the file is missing or no image.
    """
    with Image.open(path) as file:
        tag = file.getexif().get(_EXIF_ORIENTATION, 1)
        turned_size = (file.height, file.width) if tag >= 5 else file.size
        as_stored = size == file.size and size != turned_size  # whoever read it did not turn it
        file.draft("RGB", (2 * sides[0], 2 * sides[0]))
        image = _rgb(file)
    if tag in _TURNS and not as_stored:
        image = image.transpose(_TURNS[tag])
    made = []
    for side in sides:
        image = image.resize(fitted(size if min(size) else image.size, side), reducing_gap=2.0)
        made.append(image)
    return made


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: Pillow would cut at 255
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def webp(image: Image.Image, quality: int = 70) -> bytes:
    """Return the image as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a WebP file as a URI that needs no other file."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def make_pictures(
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    large: Collection[int],
    large_side: int = 256,
) -> Pictures:
    """Return sheets of all images, and larger pictures of those at some positions.

    Args:
        files: One for each position.
        sizes: Width and height that the run knows, one for each position.
        large: Positions.
        large_side: Pixels of a larger picture's longer side.
    """
    sheets: list[bytes] = []
    kept: dict[int, bytes] = {}
    missing: list[int] = []

    def load(position: int) -> tuple[Image.Image | None, bytes | None]:
        side = large_side if position in large else 0
        return _loaded(files[position], sizes[position], side)

    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        for start in range(0, len(files), SIDE * SIDE):
            span = range(start, min(start + SIDE * SIDE, len(files)))
            cells = list(pool.map(load, span))
            missing += [p for p, (cell, _) in zip(span, cells, strict=True) if cell is None]
            kept |= {p: big for p, (_, big) in zip(span, cells, strict=True) if big is not None}
            sheets.append(webp(_sheet(cell for cell, _ in cells)))
    return Pictures(tuple(sheets), kept, tuple(missing))


def _loaded(
    path: Path, size: tuple[int, int], large_side: int
) -> tuple[Image.Image | None, bytes | None]:
    """Return an image's cell, and its larger picture where a side is given; None if broken."""
    try:
        made = shrunk(path, size, (large_side, CELL) if large_side else (CELL,))
    except BROKEN as err:
        _log.warning("%s: no picture in the report: %s", path, err)
        return None, None
    return made[-1], webp(made[0]) if large_side else None


def _sheet(cells: Iterator[Image.Image | None]) -> Image.Image:
    sheet = Image.new("RGB", (SIDE * CELL, SIDE * CELL), (128, 128, 128))
    for number, cell in enumerate(cells):
        if cell is not None:
            left, top = number % SIDE * CELL, number // SIDE * CELL
            sheet.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
    return sheet
