"""The annotation files of a run: read when first asked for, divided into splits."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_dvis.clips.formats.coco_images import read_coco_images
from mlkit_dvis.clips.formats.ytvis import read_ytvis

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_dvis.clips.dataset import ClipSet, Video
    from mlkit_dvis.config import VideoClipsConfig
    from mlkit_dvis.results import VideoTarget

LOG = logging.getLogger("mlkit.dvis")
SPLITS = ("train", "val", "test")


class Sources:
    """Videos of each split, and images that stand in for videos.

    Args:
        options: Where they lie.
    """

    def __init__(self, options: VideoClipsConfig) -> None:
        self._options = options
        self._splits: dict[str, tuple[Video, ...]] = {}
        self._targets: dict[tuple[str, int], VideoTarget] = {}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names by label: as the options list them, else those of the first file that is named.

        Raises:
            DataError: No file is named, or it is wrong.
        """
        return self._options.classes or self._first.classes

    @cached_property
    def _first(self) -> ClipSet:
        """The training file; without one the file of another split."""
        options = self._options
        for name in SPLITS:
            path, frames = self._file(name)
            if path is not None:
                return read_ytvis(path, _root(path, frames), options.classes or None)
        hint = "set data.annotations"
        raise DataError("data: no annotation file is named", hint=hint)

    def _file(self, split: str) -> tuple[Path | None, Path | None]:
        """Return a split's own annotation file and folder of frames."""
        options = self._options
        return {
            "train": (options.annotations, options.frames),
            "val": (options.val_annotations, options.val_frames or options.frames),
            "test": (options.test_annotations, options.test_frames or options.frames),
        }[split]

    @property
    def _held_out(self) -> dict[str, tuple[str, ...]]:
        return {"val": self._options.val_videos, "test": self._options.test_videos}

    def has(self, split: str) -> bool:
        """Return whether the options name videos of a split."""
        return bool(self._held_out.get(split)) or self._file(split)[0] is not None

    def videos(self, split: str) -> tuple[Video, ...]:
        """Return a split's videos; of "train" those that show an instance.

        Raises:
            DataError: There is no such split, or its file is wrong.
        """
        if split not in SPLITS:
            expected = f"{', '.join(SPLITS)} or cache"
            raise DataError(f"split: expected {expected}, got {split!r}")
        if split not in self._splits:
            self._splits[split] = self._train() if split == "train" else self._other(split)
        return self._splits[split]

    def _train(self) -> tuple[Video, ...]:
        path = self._options.annotations
        if path is None:
            raise DataError("data.annotations: no training file is named", hint="name one")
        held = {video.id for split in self._held_out for video in self._kept_out(split)}
        left = [video for video in self._first.videos if video.id not in held]
        found = tuple(video for video in left if any(video.shows))
        if len(found) < len(left):
            LOG.info("%s: %d videos show no instance: left out", path, len(left) - len(found))
        if not found:
            raise DataError(f"{path}: no training video shows an instance")
        return found

    def _kept_out(self, split: str) -> tuple[Video, ...]:
        """Return the videos of the training file that another split names."""
        by_name = {video.name: video for video in self._first.videos}
        unknown = [name for name in self._held_out[split] if name not in by_name]
        if unknown:
            have = f"{', '.join(list(by_name)[:10])}{', …' if len(by_name) > 10 else ''}"
            raise DataError(f"data.{split}_videos: no video {unknown[0]!r}; there are {have}")
        return tuple(by_name[name] for name in self._held_out[split])

    def _other(self, split: str) -> tuple[Video, ...]:
        path, frames = self._file(split)
        if self._held_out[split]:
            return self._kept_out(split)
        if path is None:
            hint = f"set data.{split}_annotations, or hold some out: data.{split}_videos"
            raise DataError(f"split {split!r}: the run file names no videos", hint=hint)
        return read_ytvis(path, _root(path, frames), self.classes).videos

    @cached_property
    def images(self) -> tuple[Video, ...]:
        """Annotated images as videos of one frame; those without a known class are left out."""
        path = self._options.pseudo_annotations
        if path is None or not self._options.pseudo_ratio:
            return ()
        root = self._options.pseudo_images or path.parent
        return read_coco_images(path, root, self.classes).videos

    def target(self, split: str, index: int) -> VideoTarget:
        """Return what a video is compared with; made once."""
        if (split, index) not in self._targets:
            self._targets[split, index] = self.videos(split)[index].target()
        return self._targets[split, index]


def _root(path: Path, frames: Path | None) -> Path:
    return frames if frames is not None else path.parent / "frames"
