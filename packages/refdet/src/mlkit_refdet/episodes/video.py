"""Frames of a video file by number, decoded on where that is near, else from a keyframe."""

from __future__ import annotations

import os
from dataclasses import dataclass
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

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Size

NEAR = 64  # frames that are decoded through sooner than sought
_CUT = "the file is cut short or damaged: copy it again, or extract its frames into `frames/`"


def open_video(source: str, *, threads: bool = True) -> tuple[InputContainer, VideoStream]:
    """Return the container of a file or address, which the caller closes, and its first video.

    Args:
        source: File or address.
        threads: Decode by several. Where a process is forked while they are there, the child waits
            for them for ever as soon as it frees its copy of the decoder.

    Raises:
        DataError: It is missing, no video, or holds none.
    """
    try:
        container = av.open(source)
    except FileNotFoundError as err:
        raise DataError(f"{source}: no such file") from err
    except (FFmpegError, OSError) as err:
        raise DataError(f"{source}: not a readable video: {reason(err)}") from err
    if not container.streams.video:
        container.close()
        raise DataError(f"{source}: holds no video")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO" if threads else "NONE"
    stream.codec_context.thread_count = 0 if threads else 1
    return container, stream


class ToRgb:
    """Turns decoded frames into RGB as shown; one converter for all frames of a video.

    Args:
        threads: 0: as many as there are processors. See `open_video`.
    """

    def __init__(self, threads: int = 0) -> None:
        self._reformatter, self._threads = VideoReformatter(), threads

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Return `[H, W, 3]` uint8."""
        picture = self._reformatter.reformat(
            frame, format="rgb24", interpolation=EXACT, threads=self._threads
        )
        shown, turns = np.asarray(picture.to_ndarray(), np.uint8), round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(shown, turns)) if turns else shown


def rgb_frames(source: str) -> Iterator[Pixels]:
    """Yield the frames of a file or stream as they come.

    Raises:
        DataError: It cannot be read, or breaks off.
    """
    container, stream = open_video(source)
    to_rgb, count = ToRgb(), 0
    with container:
        try:
            for frame in container.decode(stream):
                yield to_rgb(frame)
                count += 1
        except FFmpegError as err:
            what = f"cannot be read after frame {count}: {reason(err)}"
            raise DataError(f"{source}: {what}", hint=_CUT) from err


def video_rate(source: str) -> float | None:
    """Return a video file's frames a second, on average; None where it does not say.

    Raises:
        DataError: It cannot be read.
    """
    container, stream = open_video(source)
    with container:
        rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


@dataclass(frozen=True)
class FrameTimes:
    """When each frame of a file is shown, and from which ones decoding can start.

    Args:
        times: In the stream's units, ascending, one for each frame.
        keyframes: For each frame the last one, up to itself, that is decoded without others.
        size: Height and width as shown, pixels.
        fps: Frames a second, on average; None where the file does not say.
    """

    times: tuple[int, ...]
    keyframes: tuple[int, ...]
    size: Size
    fps: float | None


def frame_times(path: Path) -> FrameTimes:
    """Return when a file's frames are shown; packets are listed, one frame alone is decoded.

    Raises:
        DataError: It cannot be read, holds no frame, or its frames have no times.
    """
    container, stream = open_video(str(path))
    shown: dict[int, bool] = {}
    with container:
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    hint = "put it into an mp4 or mkv: ffmpeg -i FILE -c copy OUT.mkv"
                    raise DataError(f"{path}: its frames have no times", hint=hint)
                shown[packet.pts] = packet.is_keyframe
        except FFmpegError as err:
            raise DataError(f"{path}: cannot be read: {reason(err)}", hint=_CUT) from err
        rate = stream.average_rate or stream.guessed_rate
    if not shown:
        raise DataError(f"{path}: holds no frame", hint=_CUT)
    times, keyframes = sorted(shown), list[int]()
    for place, time in enumerate(times):
        keyframes.append(place if shown[time] or not keyframes else keyframes[-1])
    first = next(rgb_frames(str(path)), None)
    if first is None:
        raise DataError(f"{path}: none of its {len(times)} frames can be decoded", hint=_CUT)
    fps = float(rate) if rate else None
    return FrameTimes(tuple(times), tuple(keyframes), (first.shape[0], first.shape[1]), fps)


class VideoFrames:
    """A video file's frames by number. Opened when first read, anew in every process.

    Args:
        path: The file.
        times: Of an earlier look at it; None: made when first needed.
    """

    def __init__(self, path: Path, times: FrameTimes | None = None) -> None:
        self.path, self._times = path, times
        self._opened: _Decoder | None = None

    @property
    def times(self) -> FrameTimes:
        """When its frames are shown."""
        if self._times is None:
            self._times = frame_times(self.path)
        return self._times

    def __len__(self) -> int:
        return len(self.times.times)

    def read(self, number: int) -> Pixels:
        """Return a frame `[H, W, 3]` uint8 RGB.

        Raises:
            DataError: There is no such frame, or it cannot be decoded.
        """
        if not 0 <= number < len(self):
            raise DataError(f"{self.path}: has no frame {number}: it has {len(self)}")
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _Decoder(self.path, self.times)
        try:
            return self._opened.frame(number)
        except FFmpegError as err:
            self.close()
            what = f"frame {number} of {len(self)} cannot be decoded: {reason(err)}"
            raise DataError(f"{self.path}: {what}", hint=_CUT) from err

    def verify(self) -> None:
        """Decode all of it, and raise DataError where there are more or fewer frames."""
        count = sum(1 for _ in rgb_frames(str(self.path)))
        if count != len(self):
            what = f"says that it has {len(self)} frames, {count} can be decoded"
            raise DataError(f"{self.path}: {what}", hint=_CUT)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._opened is not None and self._opened.process == os.getpid():
            self._opened.container.close()
        self._opened = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_times": self._times, "_opened": None}


class _Decoder:
    """An open file and where it stands."""

    def __init__(self, path: Path, times: FrameTimes) -> None:
        self.process = os.getpid()
        self.seeks = 0
        self.container, self._stream = open_video(str(path), threads=False)
        self._path, self._times = path, times
        self._places = {time: place for place, time in enumerate(times.times)}
        self._to_rgb = ToRgb(threads=1)
        self._frames = iter(self.container.decode(self._stream))
        self._last = -1  # the frame that came last

    def frame(self, number: int) -> Pixels:
        """Return a frame: decode on where it is near, else start at the keyframe before."""
        if not 0 < number - self._last <= NEAR:
            self._seek(number)
        found = self._until(number)
        if found is None:  # the seek led past it: from the start
            self.container.close()
            self.container, self._stream = open_video(str(self._path), threads=False)
            self._frames, self._last = iter(self.container.decode(self._stream)), -1
            found = self._until(number)
        if found is None:
            raise DataError(f"{self._path}: does not hold frame {number}", hint=_CUT)
        return self._to_rgb(found)

    def _seek(self, number: int) -> None:
        start = self._times.times[self._times.keyframes[number]]
        self.container.seek(start, stream=self._stream)
        self._frames, self._last = iter(self.container.decode(self._stream)), -1
        self.seeks += 1

    def _until(self, number: int) -> av.VideoFrame | None:
        for frame in self._frames:
            place = self._places.get(frame.pts) if frame.pts is not None else None
            if place is None:
                continue
            self._last = place
            if place >= number:
                return frame if place == number else None
        return None
