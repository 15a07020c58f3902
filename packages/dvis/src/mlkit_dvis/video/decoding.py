"""Frames of a video file one after another, turned as its metadata asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from mlkit_core.errors import DataError
from mlkit_core.report.video import EXACT, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer
    from av.video.stream import VideoStream

    from mlkit_dvis.video.images import Frame

_WHAT = "give a video file, a folder of images, or an image"
_CUT = "the file is cut short or damaged: copy it again, or take the frames before as images"
_SLACK = 2  # frames by which a duration may be told too long


def open_container(path: Path) -> tuple[InputContainer, VideoStream]:
    """Return a video file's container, which the caller closes, and its first video.

    Raises:
        DataError: It is missing, no video, or holds none.
    """
    try:
        container = av.open(str(path))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file", hint=_WHAT) from err
    except (FFmpegError, OSError) as err:
        raise DataError(f"{path}: not a readable video: {reason(err)}", hint=_WHAT) from err
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video", hint=_WHAT)
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


class ToRgb:
    """Turns decoded frames into RGB arrays; one converter for all frames of a video."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Frame:
        """Return `[H, W, 3]` as it is shown."""
        picture = self._reformatter.reformat(frame, format="rgb24", interpolation=EXACT)
        shown = np.asarray(picture.to_ndarray(), np.uint8)
        turns = quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(shown, turns)) if turns else shown


def quarter_turns(frame: av.VideoFrame) -> int:
    """Return by how many quarters, counterclockwise, a frame is turned to be shown."""
    return round(frame.rotation / 90) % 4


def decode_frames(path: Path) -> Iterator[av.VideoFrame]:
    """Yield a video file's frames in the order in which they are shown.

    Raises:
        DataError: It cannot be read to its end, is cut short, or holds no frame.
    """
    container, stream = open_container(path)
    count, extent = 0, Extent()
    with container:
        try:
            for packet in container.demux(stream):
                extent.add(packet)
                for frame in packet.decode():
                    count += 1
                    yield frame
        except FFmpegError as err:
            told = f" of {stream.frames}" if stream.frames else ""
            what = f"cannot be read after frame {count}{told}: {reason(err)}"
            raise DataError(f"{path}: {what}", hint=_CUT) from err
        extent.check(path, stream)


class Extent:
    """How far a file's packets reach: what is missing at the end is told by no error."""

    def __init__(self) -> None:
        self._count, self._end = 0, 0
        self._is_corrupt = False  # whether the last packet is

    def add(self, packet: av.Packet) -> None:
        """Take the next packet."""
        if not packet.size:
            return
        self._count += 1
        self._is_corrupt = packet.is_corrupt
        self._end = max(self._end, (packet.pts or 0) + (packet.duration or 0))

    def check(self, path: Path, stream: VideoStream) -> None:
        """Raise DataError where the file ends before it says it does, or holds nothing."""
        if not self._count:
            raise DataError(f"{path}: holds no frame", hint=_WHAT)
        missing = 0
        if stream.duration and stream.average_rate and stream.time_base:
            lacks = (stream.start_time or 0) + stream.duration - self._end
            missing = int(lacks * stream.time_base * stream.average_rate)
        if self._is_corrupt or missing > _SLACK:
            told = f" of {stream.frames}" if stream.frames else ""
            raise DataError(f"{path}: ends after frame {self._count}{told}", hint=_CUT)
