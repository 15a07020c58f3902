"""Frames of cameras, network streams and standard input, as they come."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.video.stream import VideoStream

    from mlkit_dvis.drawing.overlay import Picture

_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_USUAL_FPS = 25.0
_WAIT_S = 10.0  # for a network stream to answer


@dataclass(frozen=True)
class Stream:
    """A source that is read once, from now on.

    Args:
        name: As it was given.
        fps: Frames a second that it says it has; 25 where it says nothing.
        size: Height and width in pixels.
        endless: Whether only the person ends it.
        frames: RGB, `[H, W, 3]`, all of one size.
    """

    name: str
    fps: float
    size: tuple[int, int]
    endless: bool
    frames: Iterator[Picture]


def is_stream(source: str) -> bool:
    """Return whether a source is a camera's number or device, an address, or `-`."""
    if Path(source).is_file() or Path(source).is_dir():
        return False
    return source == "-" or bool(re.match(r"\d+$|/dev/|[a-z][a-z0-9+]+://", source))


@contextmanager
def open_stream(source: str) -> Iterator[Stream]:
    """Open a camera (`0`, `/dev/video0`), an address (`rtsp://…`), `-`, or a video file.

    Raises:
        InputError: It cannot be opened, or has no picture.
    """
    try:
        container = _open(source)
    except (FFmpegError, OSError) as err:
        hint = "a camera by number or device, rtsp://…, http://…, or - for standard input"
        raise InputError(f"{source}: cannot be opened: {_reason(err)}", hint=hint) from err
    with container:
        if not container.streams.video:
            raise InputError(f"{source}: holds no video")
        video = container.streams.video[0]
        video.thread_type = "AUTO"
        size = (video.height, video.width)
        rate = video.average_rate or video.guessed_rate
        fps = float(rate) if rate else _USUAL_FPS
        endless = is_stream(source) and source != "-"
        yield Stream(source, fps, size, endless, _frames(container, video, size, source))


def _open(source: str) -> InputContainer:
    if source == "-":
        return av.open("pipe:0")
    if re.match(r"\d+$|/dev/", source) and is_stream(source):
        name = _camera(source)
        return av.open(name, format=_CAMERAS.get(sys.platform, "v4l2"))
    if source.startswith("rtsp://"):
        options = {"rtsp_transport": "tcp"}
        return av.open(source, options=options, timeout=_WAIT_S)
    return av.open(source, timeout=_WAIT_S if "://" in source else None)


def _camera(source: str) -> str:
    if source.isdigit():
        return f"/dev/video{source}" if sys.platform == "linux" else source
    return source


def _frames(
    container: InputContainer, video: VideoStream, size: tuple[int, int], source: str
) -> Iterator[Picture]:
    """Yield frames; one that changes the size is scaled to that of the first."""
    height, width = size
    reformatter = VideoReformatter()
    try:
        for frame in container.decode(video):
            shown = reformatter.reformat(frame, width, height, "rgb24")
            yield np.asarray(shown.to_ndarray(), np.uint8)
    except FFmpegError as err:
        raise InputError(f"{source}: cannot be read on: {_reason(err)}") from err


def _reason(err: Exception) -> str:
    return (getattr(err, "strerror", None) or str(err)).lower()
