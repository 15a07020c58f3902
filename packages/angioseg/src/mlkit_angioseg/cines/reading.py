"""A cine of any form: DICOM, NPY, or a folder of pictures, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames import pixels
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.frames.opening import pictures
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from mlkit_angioseg.dicom.header import CineHeader

_FPS = 15.0


@dataclass(frozen=True)
class Cine:
    """Frames that belong together.

    Args:
        name: Of files that are written: a hash for DICOM, else the file's stem.
        places: File and index in it of every frame, None for a picture.
        header: What a DICOM file says; None for others.
    """

    name: str
    places: tuple[tuple[Path, int | None], ...]
    header: CineHeader | None

    @property
    def fps(self) -> float:
        """Frames a second: the file's, or 15, the usual rate."""
        known = self.header.frame_ms if self.header is not None else None
        return 1000.0 / known if known else _FPS

    @property
    def representative(self) -> int | None:
        """The frame that the file itself calls its best, from 0; None where it does not."""
        return self.header.representative if self.header is not None else None

    def grey(self, index: int) -> NDArray[np.float32]:
        """Return one frame as grey 0..1 `[H, W]`, vessels dark.

        Raises:
            DataError: There is no such frame, or it cannot be decoded.
        """
        if not 0 <= index < len(self.places):
            last = len(self.places) - 1
            raise DataError(f"{self.name}: frame {index}: it has 0 to {last}")
        path, frame = self.places[index]
        if self.header is not None and frame is not None:
            return read_frame(path, frame)
        return pixels.to_grey(pixels.read_stored(path, frame, str(path)))

    def inside(self, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return what collimator and shutter leave open, `[H, W]`; None where nothing is said."""
        return inside_of(self.header.collimator if self.header is not None else None, shape)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self.grey(index) for index in range(len(self.places)))


def inside_of(
    collimator: tuple[int, int, int, int] | None, shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Return what a collimator (as in `CineHeader`) leaves open, `[H, W]`; None without one."""
    if collimator is None:
        return None
    top, bottom, left, right = collimator
    open_area = np.zeros(shape, bool)
    open_area[top : bottom + 1, left : right + 1] = True
    return open_area


def open_cine(path: Path) -> Cine:
    """Return the cine of a DICOM or NPY file, a picture, or a folder of pictures.

    Raises:
        DataError: There is nothing to read, or it is no cine.
    """
    if path.is_dir():
        return Cine(path.name, tuple((file, None) for file in pictures(path)), None)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    try:
        header = Headers().image(path)
    except ValueError as err:
        raise DataError(f"{path}: {err}") from err
    frames: list[int | None] = [None] if header.frames is None else list(range(header.frames))
    name = header.cine.uid_hash if is_dicom(path) and header.cine is not None else path.stem
    return Cine(name, tuple((path, frame) for frame in frames), header.cine)
