"""The data `video-clips`: clips to train on, whole videos window by window to be measured on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_core.types import Draw, RoleSpec, TrackTarget
from mlkit_dvis.clips.collation import batch_clips
from mlkit_dvis.clips.loading import ClipLoader
from mlkit_dvis.clips.sampling import spread
from mlkit_dvis.clips.sizes import check_fixed
from mlkit_dvis.clips.sources import SPLITS, Sources
from mlkit_dvis.config import VideoClipsConfig
from mlkit_dvis.video import open_source, read_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Batch, Needs, Role, Target
    from mlkit_dvis.clips.collation import ClipSample
    from mlkit_dvis.clips.sizes import Size
    from mlkit_dvis.video.images import Frame

ROLE = "frames"


@dataclass(frozen=True)
class ClipDraw(Draw):
    """A clip of training, or a window of evaluation or of a cache.

    Args:
        split: "train", "val" or "test".
        frames: Of a window; None: drawn from the seed.
        is_still: Whether `index` counts images that become pseudo-videos.
    """

    split: str = "train"
    frames: tuple[int, ...] | None = None
    is_still: bool = False


class VideoClips:
    """Annotated videos: random clips for training, windows in order for evaluation.

    Args:
        options: Fields of `VideoClipsConfig`.
    """

    roles: Mapping[Role, RoleSpec] = {  # shared by all, never changed
        ROLE: RoleSpec(
            shape=(3, None, None),
            lead=("clip", "frame"),
            value_range=(0.0, 1.0),
            unit="RGB 0..1",
        )
    }
    kinds: Mapping[str, tuple[type[Target], str]] = {"default": (TrackTarget, "head")}

    def __init__(self, **options: object) -> None:
        self.options = VideoClipsConfig.model_validate(options)
        has_stills = self.options.pseudo_annotations is not None and self.options.pseudo_ratio > 0
        self.augments = frozenset({ROLE} if self.options.augment or has_stills else ())
        self._sources = Sources(self.options)
        self._loader = ClipLoader(self.options)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label: as the run file lists them, else the annotation file's.

        Raises:
            DataError: The file is wrong.
        """
        return self._sources.classes

    def bind(self, needs: Mapping[Role, Needs]) -> None:
        """Take what the model needs of `frames`.

        Raises:
            BuildError: The encoders do not take clips of `train_size`.
        """
        if ROLE in needs:
            check_fixed(self.options.train_size, needs[ROLE])
            self._loader.needs = needs[ROLE]

    def units(self, split: str, seed: int) -> list[list[ClipDraw]]:
        """Return one unit for each clip of training; of other splits one for each video.

        A video's draws are its windows in order. "cache" has one unit for each frame, and every
        frame of every split once: units are collated together, and windows differ in length.

        Raises:
            DataError: There is no such split, or its files are wrong.
        """
        if split == "train":
            return self._clips(seed)
        if split == "cache":
            return self._cached()
        videos = self._sources.videos(split)
        return [self._windows(split, i, range(v.length)) for i, v in enumerate(videos)]

    def _clips(self, seed: int) -> list[list[ClipDraw]]:
        options, generator = self.options, random.Random(seed)
        videos, images = len(self._sources.videos("train")), len(self._sources.images)
        share = options.pseudo_ratio if images else 0.0
        total = options.clips_per_epoch
        if total is None:  # each video equally often, and images in proportion
            total = round(videos * options.repeat / (1 - share)) if share < 1 else images
        stills = round(total * share)
        chosen = [(index, False) for index in spread(videos, total - stills, generator)]
        chosen += [(index, True) for index in spread(images, stills, generator)]
        generator.shuffle(chosen)
        return [
            [ClipDraw(index, generator.getrandbits(62), is_still=is_still)]
            for index, is_still in chosen
        ]

    def _windows(self, split: str, index: int, frames: Sequence[int]) -> list[ClipDraw]:
        size = self.options.window
        parts = (tuple(frames[start : start + size]) for start in range(0, len(frames), size))
        return [ClipDraw(index, 0, split, part) for part in parts]

    def _cached(self) -> list[list[ClipDraw]]:
        units: list[list[ClipDraw]] = []
        seen: set[tuple[Path, int, Size]] = set()
        for split in (name for name in SPLITS if self._sources.has(name)):
            for index, video in enumerate(self._sources.videos(split)):
                size = self._loader.size_of(video.size, in_training=split == "train")
                names = {t: (video.file_of(t), t, size) for t in range(video.length)}
                new = [frame for frame, name in names.items() if name not in seen]
                seen.update(names.values())
                units += [[ClipDraw(index, 0, split, (frame,))] for frame in new]
        return units

    def load(self, draw: ClipDraw) -> ClipSample:
        """Return one clip or window; its only randomness is `draw.seed`.

        Raises:
            DataError: A file is missing, corrupt, or contradicts its annotation.
        """
        if draw.is_still:
            return self._loader.still(self._sources.images[draw.index], random.Random(draw.seed))
        video = self._sources.videos(draw.split)[draw.index]
        if draw.frames is None:
            return self._loader.clip(video, random.Random(draw.seed))
        target = self._sources.target(draw.split, draw.index)
        in_training = draw.split == "train"
        return self._loader.window(video, draw.frames, target, in_training=in_training)

    def collate(self, units: Sequence[Sequence[ClipSample]]) -> list[Batch]:
        """Return clips of one length as one batch, padded to a common size."""
        samples = [sample for unit in units for sample in unit]
        needs, least = self._loader.needs, None
        if not needs.keys and any(sample.masks is not None for sample in samples):
            least = self.options.train_size
        return batch_clips(ROLE, samples, needs, least or (1, 1))

    def batch_of(
        self,
        frames: Sequence[Frame],
        *,
        first: int = 0,
        total: int | None = None,
        key: str = "stream",
        path: str = "",
        stride: int = 1,
    ) -> Batch:
        """Return one window of the user's own frames, without target.

        Args:
            frames: `[H, W, 3]` uint8 RGB each, all of one size.
            first: Index of the first of them within the video.
            total: Frames of the video; None where it is not known.
            key: The video's name.
            path: Where it lies.
            stride: Every how many frames of the source these are.
        """
        extra = {"first_frame": first, "stride": stride}
        extra |= {} if total is None else {"num_frames": total}
        return self.collate([[self._loader.own(frames, key, path, extra)]])[0]

    def open(self, inputs: Mapping[Role, Path], *, stride: int | None = None) -> Iterator[Batch]:
        """Yield windows of a video file, a folder of images or one image, in constant memory.

        Args:
            inputs: `frames`: the path.
            stride: Every how many frames one is taken; None: as the options say.

        Raises:
            DataError: It cannot be read, or no path is given.
        """
        if ROLE not in inputs:
            raise DataError(f"inputs: expected {ROLE}=PATH, got {', '.join(inputs) or 'nothing'}")
        path, step = inputs[ROLE], stride or self.options.stride
        count, first = open_source(path).frames, 0
        total = None if count is None else -(-count // step)
        for frames in _windows_of(read_frames(path, stride=step), self.options.window):
            name, where = path.resolve().name, str(path)
            yield self.batch_of(frames, first=first, total=total, key=name, path=where, stride=step)
            first += len(frames)


def _windows_of(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Yield lists of `size` frames, the last one shorter."""
    waiting: list[Frame] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
