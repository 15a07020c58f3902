"""Frames into an H.264 file."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError

from mlkit_core.errors import DataError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mlkit_refdet.scenes.compose import Pixels

_OPTIONS = {"crf": "18", "preset": "veryfast"}


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
    aside = path.with_name(f".{path.name}.part")
    try:
        count = _encode(aside, frames, size, fps)
        if not count:
            raise DataError(f"{path}: no frame was given")
        aside.replace(path)
    except (FFmpegError, OSError) as err:
        raise MlkitError(f"{path}: cannot be written: {err}") from err
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return count


def _encode(path: Path, frames: Iterable[Pixels], size: tuple[int, int], fps: float) -> int:
    options = {"movflags": "faststart"}
    count = 0
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = size[0], size[1], "yuv420p"
        stream.options = dict(_OPTIONS)
        for frame in frames:
            if frame.shape != (*size, 3):
                raise DataError(f"frame {count}: expected {(*size, 3)}, got {frame.shape}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            count += 1
        container.mux(stream.encode(None))
    return count
