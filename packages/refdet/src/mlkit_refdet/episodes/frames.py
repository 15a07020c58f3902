"""Frames by number, whether they lie in a video file or in image files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.images import image_size, read_rgb
from mlkit_refdet.episodes.recent import Recent
from mlkit_refdet.episodes.video import VideoFrames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Footage, Size

    Frames = Recent[np.ndarray]


class ImageFrames:
    """Frames that are image files.

    Args:
        folder: Where they lie, for errors.
        files: Number to file.
    """

    def __init__(self, folder: Path, files: Mapping[int, Path]) -> None:
        self.path, self.files = folder, files

    def __len__(self) -> int:
        return max(self.files, default=-1) + 1

    def read(self, number: int) -> Pixels:
        """Return a frame `[H, W, 3]` uint8 RGB.

        Raises:
            DataError: There is no such frame, or it is damaged.
        """
        if number not in self.files:
            raise DataError(f"{self.path}: has no frame {number}")
        return read_rgb(self.files[number])

    def verify(self) -> None:
        """Raise DataError where a file is no image."""
        for path in self.files.values():
            image_size(path)

    def close(self) -> None:
        """Nothing is open."""


class FrameReader:
    """Frames of one video or set of images; those read last are kept.

    A video file is opened when first read, and anew in every process: what is sent to another
    process holds no handle and no pixels.

    Args:
        path: Video file, or folder of the image files.
        files: Number to image file; None or empty: `path` is a video file.
        kept: Shared by readers; None keeps nothing.
    """

    def __init__(
        self,
        path: Path,
        files: Mapping[int, Path] | None = None,
        kept: Frames | None = None,
    ) -> None:
        self.path = path
        self._frames = ImageFrames(path, files) if files else VideoFrames(path)
        self._kept: Frames = kept if kept is not None else Recent(0)

    @classmethod
    def of(cls, footage: Footage, kept: Frames | None = None) -> FrameReader:
        """Return the reader of a footage."""
        return cls(footage.path, footage.files, kept)

    def __len__(self) -> int:
        """Return the number behind the last frame's."""
        return len(self._frames)

    @property
    def numbers(self) -> range | tuple[int, ...]:
        """Numbers of the frames that exist, ascending."""
        if isinstance(self._frames, VideoFrames):
            return range(len(self._frames))
        return tuple(sorted(self._frames.files))

    @property
    def size(self) -> Size:
        """Height and width of the first frame in pixels.

        Raises:
            DataError: It cannot be read.
        """
        if isinstance(self._frames, VideoFrames):
            return self._frames.times.size
        return image_size(self._frames.files[min(self._frames.files)])

    @property
    def fps(self) -> float | None:
        """Frames a second; None of images."""
        return self._frames.times.fps if isinstance(self._frames, VideoFrames) else None

    def read(self, number: int) -> Pixels:
        """Return a frame `[H, W, 3]` uint8 RGB; not to be written to.

        Raises:
            DataError: There is no such frame, or it cannot be decoded.
        """
        return self._kept.get((self.path, number), lambda: self._frames.read(number))

    def verify(self) -> None:
        """Decode what the file says that it holds.

        Raises:
            DataError: There are more or fewer frames.
        """
        self._frames.verify()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._frames.close()
