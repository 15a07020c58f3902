"""Clips, windows and pseudo-videos from annotated videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_core.types import Letterbox, Needs, SampleMeta
from mlkit_dvis.clips.augment import (
    View,
    ViewRange,
    draw_still_views,
    draw_view,
    shown_views,
    view_frames,
    view_masks,
)
from mlkit_dvis.clips.collation import ClipSample
from mlkit_dvis.clips.keys import FrameKeys
from mlkit_dvis.clips.pixels import FrameReader, resize_frames, stacked
from mlkit_dvis.clips.sampling import clip_frames
from mlkit_dvis.clips.sizes import fitted, legal, resized

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mlkit_dvis.clips.dataset import Video
    from mlkit_dvis.clips.sizes import Size
    from mlkit_dvis.config import VideoClipsConfig
    from mlkit_dvis.results import VideoTarget
    from mlkit_dvis.video.images import Frame

_STILL_LENGTH = (16, 48)  # frames that a pseudo-video has, of which a clip is drawn


class ClipLoader:
    """Reads what a draw asks for.

    Args:
        options: Sizes and changes.
    """

    def __init__(self, options: VideoClipsConfig) -> None:
        self._options = options
        self._reader, self._keys = FrameReader(), FrameKeys()
        self.needs = Needs()

    def size_of(self, size: Size, *, in_training: bool) -> Size:
        """Return what frames of a size are resized to where nothing is random."""
        shown = resized(size, self._options.size, self._options.max_size)
        if in_training and self._options.train_size is not None:
            shown = fitted(shown, self._options.train_size)
        return legal(shown, self.needs)

    def clip(self, video: Video, generator: random.Random) -> ClipSample:
        """Return a clip of a training video; it shows an instance where the video does.

        Raises:
            DataError: A file is missing, corrupt, or contradicts its annotation.
        """
        frames = self._frames(video.shows, generator)
        masks = torch.from_numpy(video.masks(frames))
        keys: tuple[str, ...] = ()
        if self._options.augment:
            views, masks = shown_views(
                lambda limits: [draw_view(limits, video.size, generator)], self._limits(), masks
            )
        else:
            views = [View(self.size_of(video.size, in_training=True))]
            masks = view_masks(masks, views)
            keys = self._keys_of(video, frames, views[0].size)
        pixels = None if self.needs.skip else self._reader.read(video, frames)
        meta = _meta(video, views[0].size, views[0].size, min(frames), video.length)
        return self._sample(video, masks, views, meta, pixels, keys)

    def still(self, image: Video, generator: random.Random) -> ClipSample:
        """Return a clip of a pseudo-video: one image, seen a little differently in each frame.

        Raises:
            DataError: The image is missing, corrupt, or of another size than annotated.
        """
        length = generator.randint(*_STILL_LENGTH)
        frames = self._frames((True,) * length, generator)
        views, masks = shown_views(
            lambda limits: draw_still_views(limits, image.size, len(frames), generator),
            self._limits(),
            torch.from_numpy(image.masks([0])),
        )
        meta = _meta(image, views[0].size, views[0].size, min(frames), length)
        return self._sample(image, masks, views, meta, self._reader.read(image, [0]))

    def _frames(self, shows: Sequence[bool], generator: random.Random) -> list[int]:
        options = self._options
        return clip_frames(
            shows, options.num_frames, options.frame_range, generator, options.reverse
        )

    def _limits(self) -> ViewRange:
        options, sizes = self._options, self.needs.sizes
        return ViewRange(
            short_sides=options.short_sides,
            longest=options.max_train_size,
            cap=options.train_size or (None if sizes is None else (max(sizes), max(sizes))),
            flip=options.flip,
            crop=options.crop,
            crop_sides=options.crop_sides,
            crop_range=options.crop_range,
            rotation_deg=options.rotation_deg,
        )

    def _sample(
        self,
        video: Video,
        masks: Tensor,
        views: Sequence[View],
        meta: SampleMeta,
        pixels: Tensor | None,
        keys: tuple[str, ...] = (),
    ) -> ClipSample:
        """Return a clip with those instances that are seen in it."""
        seen = masks.flatten(2).amax((0, 2)) > 0  # [M]
        labels = (instance.label for instance in video.learnt)
        fill = [255 * value for value in self.needs.pad_rgb]
        return ClipSample(
            length=len(masks),
            size=views[0].size,
            meta=meta,
            frames=None if pixels is None else view_frames(pixels, views, fill),
            masks=masks[:, seen],
            labels=tuple(label for label, shown in zip(labels, seen, strict=True) if shown),
            keys=keys,
        )

    def window(
        self, video: Video, frames: Sequence[int], target: VideoTarget, *, in_training: bool = False
    ) -> ClipSample:
        """Return successive frames of a video, unchanged but for their size.

        Args:
            video: The video.
            frames: Their numbers.
            target: Of the whole video.
            in_training: Whether they are resized as training clips are.
        """
        size = self.size_of(video.size, in_training=in_training)
        pixels = None
        if not self.needs.skip:
            pixels = resize_frames(self._reader.read(video, frames), size)
        meta = _meta(video, video.size, size, frames[0], video.length)
        keys = self._keys_of(video, frames, size)
        return ClipSample(len(frames), size, meta, pixels, target=target, keys=keys)

    def own(
        self, frames: Sequence[Frame], key: str, path: str, extra: Mapping[str, int]
    ) -> ClipSample:
        """Return a window of the user's own frames, `[H, W, 3]` each."""
        original = (frames[0].shape[0], frames[0].shape[1])
        size = self.size_of(original, in_training=False)
        box = Letterbox(scale=size[0] / original[0], size=size)
        meta = SampleMeta(key=key, size=original, letterbox=box, group=key, path=path, extra=extra)
        return ClipSample(len(frames), size, meta, resize_frames(stacked(frames), size))

    def _keys_of(self, video: Video, frames: Sequence[int], size: Size) -> tuple[str, ...]:
        if not self.needs.keys:
            return ()
        return tuple(self._keys.key(video.file_of(t), t, size, self.needs) for t in frames)


def _meta(video: Video, original: Size, size: Size, first: int, length: int) -> SampleMeta:
    """Return where frames came from; of a random view, the view itself is the original."""
    return SampleMeta(
        key=video.name,
        size=original,
        letterbox=Letterbox(scale=size[0] / original[0], size=size),
        group=video.name,
        path=str(video.path),
        extra={"first_frame": first, "num_frames": length, "video_id": video.id},
    )
