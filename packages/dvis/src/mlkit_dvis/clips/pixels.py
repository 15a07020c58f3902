"""Frames of annotated videos as tensors, and how they are resized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as geometry

from mlkit_core.errors import DataError
from mlkit_dvis.video import VideoFile
from mlkit_dvis.video.images import read_image
from mlkit_dvis.video.random_access import FrameIndex, index_frames

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_dvis.clips.dataset import Video
    from mlkit_dvis.clips.sizes import Size
    from mlkit_dvis.video.images import Frame

_MODE = geometry.InterpolationMode


class FrameReader:
    """Reads frames of videos, and remembers where video files can be entered."""

    def __init__(self) -> None:
        self._indices: dict[Path, FrameIndex] = {}

    def read(self, video: Video, frames: Sequence[int]) -> Tensor:
        """Return frames, `[T, 3, H, W]` uint8.

        Raises:
            DataError: A file is missing, corrupt, or of another size than annotated.
        """
        if video.file is not None:
            pictures = self._of_file(video.file, video.length, frames)
        else:
            pictures = [read_image(video.frames[frame]) for frame in frames]
        for frame, picture in zip(frames, pictures, strict=True):
            if picture.shape[:2] != video.size:
                got, want = (" x ".join(map(str, s)) for s in (picture.shape[:2], video.size))
                raise DataError(
                    f"{video.file_of(frame)}: is {got} (height x width), annotated as {want}"
                )
        return stacked(pictures)

    def _of_file(self, path: Path, length: int, frames: Sequence[int]) -> list[Frame]:
        if path not in self._indices:
            self._indices[path] = index_frames(path)
        with VideoFile(path, self._indices[path]) as video:
            if len(video) != length:
                raise DataError(f"{path}: has {len(video)} frames, annotated are {length}")
            return video.read(frames)


def stacked(frames: Sequence[Frame]) -> Tensor:
    """Return frames `[H, W, 3]` as `[T, 3, H, W]` uint8, channels last in memory."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def resize_frames(frames: Tensor, size: Size) -> Tensor:
    """Resize bilinearly, with antialiasing."""
    if frames.shape[-2:] == size:
        return frames
    return geometry.resize(frames, list(size), _MODE.BILINEAR, antialias=True)


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Resize to the nearest pixel."""
    if masks.shape[-2:] == size:
        return masks
    return geometry.resize(masks, list(size), _MODE.NEAREST_EXACT)
