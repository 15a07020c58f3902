"""Overlays: a picture with its mask, and an H.264 video of them that browsers play."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image
from scipy.ndimage import binary_erosion

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

_COLOUR = np.array([255, 80, 60], np.float32)
_SHARE = 0.35


def overlay(grey: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `[H, W, 3]` uint8 RGB: the frame with the mask tinted and its outline drawn."""
    picture = np.repeat(np.clip(grey, 0, 1)[..., None] * 255, 3, axis=2)
    picture[mask] = (1 - _SHARE) * picture[mask] + _SHARE * _COLOUR
    picture[mask & ~binary_erosion(mask)] = _COLOUR
    return picture.round().astype(np.uint8)


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask as an 8-bit PNG, 0 and 255."""
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> int:
    """Write RGB frames as H.264 in yuv420p, the index in front; return how many.

    Odd sides lose their last row or column: 4:2:0 has none. The file appears when it is whole.

    Raises:
        MlkitError: The disk does not take it, or this FFmpeg has no H.264 encoder.
    """
    aside, count = path.with_name(f".{path.name}.part"), 0
    try:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                height, width = (side - side % 2 for side in frame.shape[:2])
                if not count:
                    stream.height, stream.width = height, width
                even = np.ascontiguousarray(frame[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
                count += 1
            container.mux(stream.encode())
        aside.replace(path)
    except (FFmpegError, OSError) as err:
        aside.unlink(missing_ok=True)
        raise MlkitError(f"{path}: cannot be written: {err}") from err
    return count
