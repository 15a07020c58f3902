"""Annotated videos in memory: names, sizes and masks as they were written; no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlkit_core.errors import DataError
from mlkit_dvis.clips.masks import decode, to_rle
from mlkit_dvis.results import TrackAnnotation, VideoTarget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_dvis.clips.masks import Segmentation
    from mlkit_dvis.results import Rle


@dataclass(frozen=True)
class Instance:
    """One object of a video.

    Args:
        id: In the file.
        label: Class index.
        segmentations: One for each frame, None where it is not visible.
        is_crowd: Left out of training, ignored by metrics.
    """

    id: int
    label: int
    segmentations: tuple[Segmentation | None, ...]
    is_crowd: bool = False


@dataclass(frozen=True)
class Video:
    """One annotated video.

    Args:
        id: In the file.
        name: Unique within its file: the frames' folder where it has one of its own.
        size: Height and width in pixels.
        length: Number of frames.
        frames: Image files in order; empty where `file` holds the frames.
        file: A video file.
        instances: In the file's order.
    """

    id: int
    name: str
    size: tuple[int, int]
    length: int
    frames: tuple[Path, ...] = ()
    file: Path | None = None
    instances: tuple[Instance, ...] = ()

    @cached_property
    def learnt(self) -> tuple[Instance, ...]:
        """The instances that training sees: all but crowds."""
        return tuple(instance for instance in self.instances if not instance.is_crowd)

    @cached_property
    def shows(self) -> tuple[bool, ...]:
        """Whether a frame shows an instance that training sees."""
        rows = (instance.segmentations for instance in self.learnt)
        return tuple(any(column) for column in zip(*rows, strict=True)) or (False,) * self.length

    @property
    def path(self) -> Path:
        """What to show beside a prediction: the video file, or the frames' folder."""
        return self.file if self.file is not None else self.frames[0].parent

    def file_of(self, frame: int) -> Path:
        """Return the file that holds a frame."""
        return self.file if self.file is not None else self.frames[frame]

    def rle(self, instance: Instance, frame: int) -> Rle | None:
        """Return the run lengths of an instance in a frame, None where it is not visible.

        Raises:
            DataError: They are malformed.
        """
        try:
            return to_rle(instance.segmentations[frame], self.size)
        except DataError as err:
            where = f"video {self.name}: instance {instance.id}, frame {frame}"
            raise DataError(f"{where}: {err}") from err

    def masks(self, frames: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return the masks of the instances that training sees, `[T, M, H, W]`, 0 or 1."""
        masks = np.zeros((len(frames), len(self.learnt), *self.size), np.uint8)
        for row, instance in enumerate(self.learnt):
            for t, frame in enumerate(frames):
                rle = self.rle(instance, frame)
                if rle is not None:
                    masks[t, row] = decode(rle)
        return masks

    def target(self) -> VideoTarget:
        """Return what evaluation compares with: run lengths of all frames at original size."""
        frames = range(self.length)
        return VideoTarget(
            tuple(
                TrackAnnotation(
                    label=instance.label,
                    rles=tuple(self.rle(instance, frame) for frame in frames),
                    is_crowd=instance.is_crowd,
                    instance=instance.id,
                )
                for instance in self.instances
            )
        )


@dataclass(frozen=True)
class ClipSet:
    """Annotated videos of one source.

    Args:
        videos: In the source's order.
        classes: Names by label.
        root: What the frames' paths start from.
    """

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    root: Path
