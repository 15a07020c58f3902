"""H.264 video that browsers play, frame by frame."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from av.video.stream import VideoStream

    from mlkit_refdet.episodes.images import Pixels

_BT709 = 1  # in ITU-T H.273: primaries, transfer and matrix alike
_COLOURS: dict[str, Any] = {
    "interpolation": Interpolation.BILINEAR | Interpolation.ACCURATE_RND,
    "dst_colorspace": Colorspace.ITU709,
    "dst_color_range": ColorRange.MPEG,
    "dst_color_primaries": _BT709,
    "dst_color_trc": _BT709,
}


class VideoWriter:
    """Writes RGB frames as H.264, yuv420p, with the index in front; the file appears when whole.

    Frames have the first one's size, or are scaled to it. Odd sizes are padded by a copy of the
    last row or column: 4:2:0 has none. Colours are BT.709 and say so. Leave the `with` block by an
    error, or without a frame, and there is no file.

    Args:
        path: Of the mp4; its folder exists.
        fps: Frames a second.
        crf: x264's quality, less is better.

    Raises:
        MlkitError: The disk does not take it, or this FFmpeg has no H.264 encoder.
    """

    def __init__(self, path: Path, fps: float, crf: int = 20) -> None:
        self.frames = 0
        self._path, self._aside = path, path.with_name(f".{path.name}.part")
        self._options: dict[str, object] = {"crf": str(crf), "preset": "veryfast"}
        self._rate = Fraction(fps).limit_denominator(1001)
        self._reformatter = VideoReformatter()
        self._stream: VideoStream | None = None
        try:
            options = {"movflags": "faststart"}
            self._container = av.open(str(self._aside), "w", format="mp4", options=options)
        except (FFmpegError, OSError) as err:
            raise self._error(err) from err

    def _begin(self, height: int, width: int) -> VideoStream:
        try:
            stream = self._container.add_stream("libx264", rate=self._rate)
        except UnknownCodecError as err:
            hint = "PyAV's wheels carry one: pip install --force-reinstall av"
            raise MlkitError("this FFmpeg has no encoder libx264", hint=hint) from err
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt, stream.options = "yuv420p", self._options
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return stream

    def write(self, frame: Pixels) -> None:
        """Add a frame `[H, W, 3]` uint8 RGB."""
        height, width = frame.shape[:2]
        if self._stream is None:
            self._stream = self._begin(height, width)
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        size = (self._stream.width, self._stream.height)
        self._put(self._reformatter.reformat(picture, *size, format="yuv420p", **_COLOURS))
        self.frames += 1

    def _put(self, picture: av.VideoFrame | None) -> None:
        """Encode a picture; None: what is left in the encoder."""
        if self._stream is None:
            return
        try:
            self._container.mux(self._stream.encode(picture))
        except (FFmpegError, OSError) as err:
            raise self._error(err) from err

    def _error(self, err: Exception) -> MlkitError:
        reason = (getattr(err, "strerror", None) or str(err)).lower()
        return MlkitError(f"{self._path}: cannot be written: {reason}")

    def _discard(self) -> None:
        with suppress(FFmpegError, OSError):  # the trailer of a file that is thrown away
            self._container.close()
        self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or not self.frames:
            self._discard()
            return
        try:
            self._put(None)
            self._container.close()
            self._aside.replace(self._path)
        except (FFmpegError, OSError) as err:
            self._discard()
            raise self._error(err) from err
