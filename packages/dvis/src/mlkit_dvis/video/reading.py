"""Frames of a video file, a folder of images, or one image, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import av

from mlkit_core.errors import DataError
from mlkit_dvis.video.decoding import ToRgb, decode_frames, open_container, quarter_turns
from mlkit_dvis.video.images import image_size, is_image, list_images, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlkit_dvis.video.images import Frame


@dataclass(frozen=True)
class Source:
    """What is known of a video before it is read.

    Args:
        path: File or folder.
        size: Height and width of the frames as they are shown, in pixels.
        frames: How many there are, as the file says or its duration tells; None where neither does.
        fps: Frames a second; None of images.
        images: Of a folder or one image: its files in order.
    """

    path: Path
    size: tuple[int, int]
    frames: int | None
    fps: float | None
    images: tuple[Path, ...] = ()


def open_source(path: Path) -> Source:
    """Return what is known of a video file, a folder of images, or an image.

    Raises:
        DataError: It is missing, no video, or holds no frame.
    """
    images = image_files(path)
    if images:
        return Source(path, image_size(images[0]), len(images), None, images)
    with open_container(path)[0] as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else None
        count = stream.frames or None
        if count is None and fps is not None and container.duration is not None:
            count = max(1, round(container.duration / av.time_base * fps))
    first = next(decode_frames(path))
    height, width = first.height, first.width
    size = (width, height) if quarter_turns(first) % 2 else (height, width)
    return Source(path, size, count, fps)


def image_files(path: Path) -> tuple[Path, ...]:
    """Return the images of a folder in natural order, or the one image; none of a video file.

    Raises:
        DataError: A folder holds no image.
    """
    if path.is_dir():
        return tuple(list_images(path))
    return (path,) if is_image(path) else ()


def read_frames(
    path: Path, *, start: int = 0, stop: int | None = None, stride: int = 1
) -> Iterator[Frame]:
    """Yield RGB frames `[H, W, 3]` uint8 in order.

    Args:
        path: Video file, folder of images, or one image.
        start: First frame.
        stop: After the last one; None: to the end.
        stride: Every how many frames one is taken.

    Raises:
        DataError: It cannot be read to its end, or frames are of different sizes.
    """
    images = image_files(path)
    if images:
        frames = map(read_image, images[start:stop:stride])
    else:
        frames = map(ToRgb(), islice(decode_frames(path), start, stop, stride))
    size = None
    for place, frame in enumerate(frames):
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            number = start + place * stride
            got, want = (f"{height} x {width}" for height, width in (frame.shape[:2], size))
            raise DataError(f"{path}: frame {number} is {got}, those before are {want}")
        yield frame
