"""Decoding frames and masks, and the grey values that come of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_angioseg.frames.headers import UNREADABLE, open_array
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_RGB_TO_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as PIL's "L"
_CHANNELS = ("red", "green", "blue")
_LOW_HIGH = (1.0, 99.0)
_CLIP = 0.02  # greatest share of a neighbourhood's pixels that one grey value counts with


def read_stored(path: Path, frame: int | None, where: str) -> NDArray[np.uint8 | np.uint16]:
    """Return one frame `[H, W]` or `[H, W, 3]` as stored; of a cine only this frame is read.

    Raises:
        DataError: The file cannot be decoded; `where` (table and line) and the file are named.
    """
    try:
        if frame is not None:
            stored = np.array(open_array(path)[frame])
        else:
            with Image.open(path) as picture:
                deep = picture.mode.startswith(("I", "F"))
                picture = picture if deep or picture.mode == "L" else picture.convert("RGB")
                stored = np.asarray(picture)
    except (*UNREADABLE, IndexError) as err:
        raise DataError(f"{where}: {path}: cannot be decoded: {err}") from err
    if stored.dtype.kind == "i" and stored.min() >= 0 and stored.max() < 2**16:
        stored = stored.astype(np.uint16)  # PIL gives 16-bit PNGs as int32 in older modes
    if stored.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{where}: {path}: expected 8 or 16 bits, got {stored.dtype}")
    return stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored


def to_grey(
    stored: NDArray[np.uint8 | np.uint16],
    bits: int | None = None,
    window: str = "full",
    channel: str = "grey",
) -> NDArray[np.float32]:
    """Return grey values 0..1 `[H, W]`.

    Args:
        stored: `[H, W]` or `[H, W, 3]`.
        bits: Bits stored; None for all bits of the type. White is `2 ** bits - 1`, never the
            brightest pixel, so that contrast does not hang on one pixel.
        window: "full", or as in `windowed`.
        channel: "grey", or "red", "green" or "blue" of a colour picture alone.

    Raises:
        ValueError: A value needs more bits.
    """
    white = 2 ** (bits or 8 * stored.dtype.itemsize) - 1
    if stored.max() > white:
        raise ValueError(f"value {stored.max()} needs more than {bits} bits")
    grey = stored.astype(np.float32) / white
    if grey.ndim == 3:
        grey = grey @ _RGB_TO_GREY if channel == "grey" else grey[..., _CHANNELS.index(channel)]
    return windowed(np.clip(grey, 0, 1, dtype=np.float32), window, 1 / white)


def windowed(grey: NDArray[np.float32], window: str, least: float = 1 / 255) -> NDArray[np.float32]:
    """Return grey values 0..1 with another contrast.

    Source of "clahe": Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems
    IV, 1994, as scikit-image has it: neighbourhoods of an eighth of the picture.

    Args:
        grey: `[H, W]`, 0..1.
        window: "full": as it is; "percentile": see `stretch`; "clahe".
        least: Bounds the range of "percentile" below.
    """
    if window == "percentile":
        return stretch(grey, least)
    if window == "clahe":
        from skimage.exposure import equalize_adapthist

        return equalize_adapthist(grey, clip_limit=_CLIP).astype(np.float32)
    return grey


def stretch(grey: NDArray[np.float32], least: float = 1 / 255) -> NDArray[np.float32]:
    """Return grey values with percentiles 1 to 99 at 0 and 1; `least` bounds the range below."""
    low, high = np.percentile(grey, _LOW_HIGH)
    return np.clip((grey - low) / max(float(high - low), least), 0, 1, dtype=np.float32)


def read_labels(path: Path, where: str, classes: int) -> NDArray[np.uint8]:
    """Return a label map `[H, W]` of values from 0, the background, to `classes`.

    Raises:
        DataError: The file cannot be decoded, or holds a greater value.
    """
    stored = _stored_mask(path, where, grey_of=("1", "L", "P"))
    if (highest := int(stored.max())) > classes:
        hint = "data.classes names the values from 1; without it masks hold 0 and 1, or 0 and 255"
        raise DataError(
            f"{where}: mask {path}: value {highest}, but there are {classes} classes", hint=hint
        )
    return stored.astype(np.uint8)


def _stored_mask(path: Path, where: str, grey_of: tuple[str, ...] = ("1", "L")) -> NDArray:
    """Return a mask's values; pictures of other modes than `grey_of` are made grey."""
    try:
        if path.suffix.lower() == ".npy":
            return np.array(open_array(path))
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode in grey_of else picture.convert("L"))
    except UNREADABLE as err:
        raise DataError(f"{where}: mask {path}: cannot be decoded: {err}") from err


def read_mask(path: Path, where: str) -> NDArray[np.bool_]:
    """Return a mask `[H, W]`, True on vessel; stored values are 0 and 1, or 0 and 255.

    Raises:
        DataError: The file cannot be decoded, or holds other values.
    """
    stored = _stored_mask(path, where)
    values = np.unique(stored)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        shown = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
        raise DataError(
            f"{where}: mask {path}: expected values 0 and 1, or 0 and 255, got {shown}",
            hint="save masks without smoothing or JPEG compression",
        )
    return stored > 0


class FileHashes:
    """SHA-256 of files' bytes, computed once for each path, size and time of change."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    def of(self, path: Path) -> str:
        """Return the hexadecimal digest of a file's bytes."""
        stat = path.stat()
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[key]
