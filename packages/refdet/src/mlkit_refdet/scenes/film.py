"""Frames into an H.264 file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_core.report.video import VideoWriter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlkit_refdet.scenes.compose import Pixels

_CRF = 18


def write_film(path: Path, frames: Iterable[Pixels], size: tuple[int, int], fps: float) -> int:
    """Write RGB frames as H.264, yuv420p; the file appears when it is whole.

    Args:
        path: Of the mp4; its folder exists.
        frames: `[H, W, 3]` uint8 each.
        size: Their height and width, even numbers.
        fps: Frames a second.

    Returns:
        How many frames were written.

    Raises:
        DataError: A size is odd, as 4:2:0 has none; a frame has another; or there is none.
        MlkitError: The file cannot be written.
    """
    if size[0] % 2 or size[1] % 2 or min(size) < 16:
        raise DataError(f"{path}: expected even sides of 16 pixels or more, got {size}")
    with VideoWriter(path, fps, size, crf=_CRF) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.frames
