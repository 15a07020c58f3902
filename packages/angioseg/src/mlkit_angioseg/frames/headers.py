"""What a file's header tells: sizes and frame counts, without decoding pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_angioseg.dicom.header import is_dicom, read_header
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_angioseg.dicom.header import CineHeader

# What PIL and numpy raise for a file that is not what its name says.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Header:
    """Size in pixels; `frames` is the number of a cine's frames, None for a single picture.

    `cine` is what a DICOM file says beside it.
    """

    height: int
    width: int
    frames: int | None = None
    cine: CineHeader | None = None


class Headers:
    """Reads headers, each file once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, bool], Header | str] = {}

    def image(self, path: Path) -> Header:
        """Return the header of a picture or of an NPY cine `[T, H, W]` or `[T, H, W, 1 or 3]`.

        Raises:
            ValueError: The file is missing or is no such image; the message names it.
        """
        return self._get(path, mask=False)

    def mask(self, path: Path) -> Header:
        """Return the header of a mask: a picture, or an NPY array `[H, W]`.

        Raises:
            ValueError: As for `image`.
        """
        return self._get(path, mask=True)

    def _get(self, path: Path, *, mask: bool) -> Header:
        key = (path, mask)
        if key not in self._known:
            try:
                self._known[key] = _read(path, mask=mask)
            except FileNotFoundError:
                self._known[key] = f"no such file {str(path)!r}"
            except UNREADABLE as err:
                self._known[key] = f"{path.name!r} cannot be read: {err}"
        known = self._known[key]
        if isinstance(known, str):
            raise ValueError(known)
        return known


def open_array(path: Path) -> np.memmap:
    """Return an NPY array mapped read-only: nothing is read but its header."""
    return np.lib.format.open_memmap(path, mode="r")


def _read(path: Path, *, mask: bool) -> Header:
    if not mask and is_dicom(path):
        try:
            cine = read_header(path)
        except DataError as err:
            raise ValueError(str(err)) from err
        return Header(*cine.size, cine.frames, cine)
    if path.suffix.lower() != ".npy":
        with Image.open(path) as picture:
            return Header(picture.height, picture.width)
    array = open_array(path)
    if mask:
        if array.ndim != 2 or array.dtype.kind not in "bu":
            raise ValueError(f"expected a mask [H, W] of bool or uint8, got {_say(array)}")
        return Header(*array.shape)
    # Three dimensions are always [T, H, W]: [H, W, 3] looks the same and is never guessed.
    fits = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    if not fits or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected a cine [T, H, W] or [T, H, W, 1|3] of uint, got {_say(array)}")
    return Header(array.shape[1], array.shape[2], array.shape[0])


def _say(array: np.ndarray) -> str:
    return f"{list(array.shape)} of {array.dtype}"
