"""What is known of a video: names, sizes and times for files and captions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footage:
    """The frames that were tracked.

    Args:
        path: File, folder, or address of a stream.
        size: Height and width of the frames in pixels.
        fps: Frames a second of the source; None where it is not known.
        frames: How many were tracked, after `stride`; None while they come.
        stride: Every how many frames of the source one was taken.
    """

    path: str
    size: tuple[int, int]
    fps: float | None
    frames: int | None
    stride: int = 1

    def seconds(self, frame: int) -> float | None:
        """Return the time of a tracked frame in the source."""
        return round(frame * self.stride / self.fps, 3) if self.fps else None

    def caption(self, frame: int) -> str:
        """Return what people read in a frame's corner: its number from 1, and its time."""
        total = f"/{self.frames}" if self.frames else ""
        seconds = self.seconds(frame)
        time = f"   {seconds:.2f} s" if seconds is not None else ""
        return f"frame {frame + 1}{total}{time}"
