"""A tracked video, and what its frames are given to when it is seen again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.selection import TrackRow
    from mlkit_dvis.results import InstanceTrack, VideoResult

    Tell = Callable[[str, int, int | None], None]  # what is done, frames done, of how many


class FrameSink(Protocol):
    """Takes the frames of a video in order."""

    def add(self, index: int, frame: Picture) -> None:
        """Take the next frame."""
        ...


class FrameWriter(Protocol):
    """Takes the frames of a video that is being written."""

    def write(self, frame: Picture) -> None:
        """Add the next frame."""
        ...


if TYPE_CHECKING:
    OpenVideo = Callable[[Path, float, tuple[int, int]], AbstractContextManager[FrameWriter]]


@dataclass(frozen=True)
class TrackedVideo:
    """What was found in a video, and how to see it again.

    Args:
        result: All that the model gave.
        tracks: Those that are reported, best first.
        rows: The same as objects.
        footage: The video.
        classes: Names, by label.
        provenance: Of the model.
        frames: Gives the tracked frames, each time anew.
    """

    result: VideoResult
    tracks: tuple[InstanceTrack, ...]
    rows: tuple[TrackRow, ...]
    footage: Footage
    classes: tuple[str, ...]
    provenance: Mapping[str, object]
    frames: Callable[[], Iterable[Picture]]

    @property
    def still(self) -> bool:
        """Whether it is a single picture."""
        return self.result.num_frames == 1


@dataclass(frozen=True)
class DrawingOptions:
    """What is written.

    Args:
        fps: Of the videos that are written.
        open_video: Opens one for writing: path, frames a second, height and width.
        video: Whether to write videos at all.
        layers: Decoder layers whose attention is drawn; empty: none.
        queries: "all" also draws, for some frames, the attention of every query.
        unmatched_top: How many queries of a frame the table of unmatched ones holds.
    """

    fps: float
    open_video: OpenVideo
    video: bool = True
    layers: tuple[int, ...] = ()
    queries: Literal["tracks", "all"] = "tracks"
    unmatched_top: int = 10

    def open(
        self, path: Path, video: TrackedVideo, size: tuple[int, int]
    ) -> AbstractContextManager[FrameWriter]:
        """Open what takes a video's drawn frames; of one frame a PNG is made."""
        return _still_writer(path) if video.still else self.open_video(path, self.fps, size)


class _StillWriter:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, frame: Picture) -> None:
        """Save the frame."""
        Image.fromarray(frame).save(self._path)


@contextmanager
def _still_writer(path: Path) -> Iterator[FrameWriter]:
    yield _StillWriter(path)


def play(video: TrackedVideo, sinks: Sequence[FrameSink], what: str, tell: Tell) -> None:
    """Give every frame of a video to every sink."""
    total = video.result.num_frames
    for index, frame in zip(range(total), video.frames(), strict=False):
        for sink in sinks:
            sink.add(index, frame)
        tell(what, index + 1, total)
