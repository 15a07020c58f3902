"""Any frame of a video file, without reading all that come before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from av.error import FFmpegError

from mlkit_core.errors import DataError
from mlkit_core.report.video import reason
from mlkit_dvis.video.decoding import Extent, ToRgb, open_container

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from mlkit_dvis.video.images import Frame


@dataclass(frozen=True)
class FrameIndex:
    """When each frame of a video file is shown, and from which ones decoding can start.

    Args:
        times: In the stream's units, ascending: one for each frame.
        keyframes: For each frame the last one, up to itself, that is decoded without others.
    """

    times: tuple[int, ...]
    keyframes: tuple[int, ...]


def index_frames(path: Path) -> FrameIndex:
    """Return the index of a video file; packets are listed, nothing is decoded.

    Raises:
        DataError: It cannot be read, or its frames have no times.
    """
    container, stream = open_container(path)
    shown: dict[int, bool] = {}
    extent = Extent()
    with container:
        try:
            for packet in container.demux(stream):
                extent.add(packet)
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    hint = "put it into an mp4 or mkv: ffmpeg -i FILE -c copy OUT.mkv"
                    raise DataError(f"{path}: its frames have no times", hint=hint)
                shown[packet.pts] = packet.is_keyframe
        except FFmpegError as err:
            raise DataError(f"{path}: cannot be read: {reason(err)}") from err
        extent.check(path, stream)
    times, keyframes = sorted(shown), list[int]()
    for place, time in enumerate(times):
        keyframes.append(place if shown[time] or not keyframes else keyframes[-1])
    return FrameIndex(tuple(times), tuple(keyframes))


class VideoFile:
    """Frames of a video file by number; seeks to the keyframe before, and decodes from there.

    Args:
        path: The file.
        index: Of an earlier look at the same file; None: made now.

    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, path: Path, index: FrameIndex | None = None) -> None:
        self.path = path
        self.index = index if index is not None else index_frames(path)
        self._places = {time: place for place, time in enumerate(self.index.times)}
        self._container, self._stream = open_container(path)
        self._to_rgb = ToRgb()

    def __len__(self) -> int:
        return len(self.index.times)

    @property
    def fps(self) -> float | None:
        """Frames a second, on average."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    def __getitem__(self, number: int) -> Frame:
        """Return a frame `[H, W, 3]` uint8 RGB."""
        return self.read([number])[0]

    def read(self, numbers: Sequence[int]) -> list[Frame]:
        """Return frames by number, in the order asked for.

        Raises:
            DataError: There is no such frame, or it cannot be decoded.
        """
        outside = [number for number in numbers if not 0 <= number < len(self)]
        if outside:
            raise DataError(f"{self.path}: has no frame {outside[0]}: it has {len(self)}")
        found: dict[int, Frame] = {}
        wanted = sorted(set(numbers))
        while wanted:
            count = _reach(wanted, self.index.keyframes)
            self._find(wanted[:count], found)
            wanted = wanted[count:]
        return [found[number] for number in numbers]

    def _find(self, wanted: Sequence[int], found: dict[int, Frame]) -> None:
        """Decode from the keyframe before; from the file's start where that leads past it."""
        try:
            self._container.seek(
                self.index.times[self.index.keyframes[wanted[0]]], stream=self._stream
            )
            if self._decode(wanted, found):
                return
            self._container.close()
            self._container, self._stream = open_container(self.path)
            if self._decode(wanted, found):
                return
            why = "the file does not hold it"
        except FFmpegError as err:
            why = reason(err)
        missing = next(number for number in wanted if number not in found)
        raise DataError(f"{self.path}: frame {missing} of {len(self)} cannot be decoded: {why}")

    def _decode(self, wanted: Sequence[int], found: dict[int, Frame]) -> bool:
        """Decode from where the file stands up to the last wanted frame; return if all were met."""
        last = self.index.times[wanted[-1]]
        for frame in self._container.decode(self._stream):
            if frame.pts is None:
                continue
            place = self._places.get(frame.pts, -1)
            if place in wanted:
                found[place] = self._to_rgb(frame)
            if frame.pts >= last:
                break
        return all(number in found for number in wanted)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _reach(wanted: Sequence[int], keyframes: Sequence[int]) -> int:
    """Return how many of the wanted frames are decoded in one go: those of one keyframe.

    A keyframe that follows at once is decoded through; a gap is worth a seek.
    """
    count = 1
    while count < len(wanted) and keyframes[wanted[count]] <= wanted[count - 1] + 1:
        count += 1
    return count
