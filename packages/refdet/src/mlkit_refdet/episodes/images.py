"""Image files: which there are, how large, and their pixels, turned as EXIF says."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_refdet.episodes.index import Size

    Pixels = npt.NDArray[np.uint8]  # [H, W, 3], RGB, or [H, W]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_MAX_PIXELS = 178_956_970  # half a gigabyte of RGB; a small file may claim far more
_ORIENTATION, _TURNED = 274, range(5, 9)  # the EXIF tag, and the values that swap the sides
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, OverflowError,
    Image.DecompressionBombError,
)  # fmt: skip


def is_image(path: Path) -> bool:
    """Return whether a file's name is one of an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key in which img_2 comes before img_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def list_images(folder: Path) -> list[Path]:
    """Return a folder's image files in natural order; a missing folder has none."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if is_image(path)), key=natural)


def image_size(path: Path) -> Size:
    """Return height and width as shown, from the file's header.

    Raises:
        DataError: It is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except _BROKEN as err:
        raise DataError(f"{path}: not a readable image: {_first_line(err)}") from err
    if width * height > _MAX_PIXELS:
        raise DataError(f"{path}: expected at most {_MAX_PIXELS} pixels, got {width} x {height}")
    return (width, height) if turned else (height, width)


def read_rgb(path: Path) -> Pixels:
    """Return an image file as RGB, `[H, W, 3]` uint8; an alpha channel is dropped.

    Raises:
        DataError: It is missing, damaged or cut short.
    """
    return _decoded(path, "RGB")


def read_rgba(path: Path) -> tuple[Pixels, Pixels | None]:
    """Return a photo as RGB `[H, W, 3]`, and its alpha `[H, W]` where it has one.

    Raises:
        DataError: It is missing, damaged or cut short.
    """
    pixels = _decoded(path, "RGBA")
    alpha = pixels[..., 3]
    return np.ascontiguousarray(pixels[..., :3]), None if (alpha == 255).all() else alpha


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Return a mask file `[H, W]`: bright pixels are the object.

    Raises:
        DataError: It is missing or damaged.
    """
    return _decoded(path, "L") > 127


def _decoded(path: Path, mode: str) -> Pixels:
    image_size(path)
    try:
        with Image.open(path) as image:
            return np.asarray(_eight_bits(ImageOps.exif_transpose(image)).convert(mode))
    except _BROKEN as err:
        raise DataError(f"{path}: not a readable image: {_first_line(err)}") from err


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as its upper 8 bits; a plain conversion would cut values off at 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0]
