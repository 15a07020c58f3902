"""Frames that are image files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Frame = npt.NDArray[np.uint8]  # [H, W, 3], RGB

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

_BROKEN = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def is_image(path: Path) -> bool:
    """Return whether a file's name is one of an image."""
    return path.suffix.lower() in IMAGES


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key in which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order.

    Raises:
        DataError: There is none.
    """
    images = sorted((path for path in folder.iterdir() if is_image(path)), key=natural)
    if not images:
        hint = f"images end in {', '.join(sorted(IMAGES))}"
        raise DataError(f"{folder}: holds no image", hint=hint)
    return images


def read_image(path: Path) -> Frame:
    """Return an image file as RGB.

    Raises:
        DataError: It is missing or corrupt.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except _BROKEN as err:
        raise DataError(f"{path}: not a readable image: {err}") from err


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's height and width from its header.

    Raises:
        DataError: It is missing or corrupt.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except _BROKEN as err:
        raise DataError(f"{path}: not a readable image: {err}") from err
