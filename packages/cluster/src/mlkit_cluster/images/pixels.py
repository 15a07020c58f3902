"""Reading image files as RGB, whatever they store, and telling which cannot be read."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from mlkit_cluster.images.letterbox import letterbox
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 178_956_970  # half a gigabyte of RGB; a small file may claim far more
# What decoders raise on damaged files; where ultralytics has been imported, a file that is no image
# may also lead to an optional decoder that is not there.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, OverflowError,
    Image.DecompressionBombError, ImportError,
)  # fmt: skip


def read_image(path: Path) -> np.ndarray:
    """Return an image file as RGB, `[H, W, 3]` uint8, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit files are converted; of 16 bits the upper 8 are kept, of an
    alpha channel nothing.

    Raises:
        DataError: The file is missing, damaged, cut short, empty, or claims too many pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                got = f"{image.width} x {image.height}"
                raise DataError(f"{path}: expected at most {MAX_PIXELS} pixels, got {got}")
            return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such image") from err
    except _UNREADABLE as err:
        said = (str(err) or type(err).__name__).splitlines()[0]
        raise DataError(f"{path}: not a readable image: {said}") from err


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; a plain conversion would cut values off at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    return image.convert("RGB")


def read_input(path: Path, image_size: int) -> torch.Tensor:
    """Return an image file letterboxed, `[3, S, S]` uint8, RGB.

    Raises:
        DataError: The file cannot be read.
    """
    return as_tensor(letterbox(read_image(path), image_size)[0])


def as_tensor(square: np.ndarray) -> torch.Tensor:
    """Return `[S, S, 3]` as a tensor `[3, S, S]`."""
    return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


def content_hash(path: Path) -> str:
    """Return the BLAKE2b hash of a file's bytes, 128 bits in hex.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as err:
        raise DataError(f"{path}: cannot be read: {err.strerror}") from err
