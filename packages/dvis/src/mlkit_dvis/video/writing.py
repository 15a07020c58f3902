"""H.264 video that browsers play."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from mlkit_core.errors import DataError, MlkitError
from mlkit_dvis.video.decoding import EXACT, reason

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from av.container import OutputContainer
    from av.video.stream import VideoStream

    from mlkit_dvis.video.images import Frame

_BT709 = 1  # in ITU-T H.273: primaries, transfer and matrix alike
_COLOURS: dict[str, Any] = {
    "interpolation": EXACT,
    "dst_colorspace": Colorspace.ITU709,
    "dst_color_range": ColorRange.MPEG,
    "dst_color_primaries": _BT709,
    "dst_color_trc": _BT709,
}


class VideoWriter:
    """Writes RGB frames as H.264, yuv420p, with the index in front; the file appears when whole.

    Odd sizes are padded by a copy of the last row or column: 4:2:0 has none. Colours are BT.709
    and say so. Leave the `with` block by an error, and there is no file.

    Args:
        path: Of the mp4; its folder exists.
        fps: Frames a second.
        size: Height and width of the frames in pixels.

    Raises:
        DataError: Size or rate is none.
        MlkitError: The disk does not take it, or this FFmpeg has no H.264 encoder.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        if fps <= 0 or min(size) < 1:
            raise DataError(f"{path}: expected a rate and a size above 0, got {fps} and {size}")
        self._path, self._size = path, size
        self._aside = path.with_name(f".{path.name}.part")
        self._canvas = np.zeros((size[0] + size[0] % 2, size[1] + size[1] % 2, 3), np.uint8)
        self._reformatter = VideoReformatter()
        self._frames = 0
        self._container = self._open()
        try:
            self._stream = self._add_stream(fps)
        except BaseException:
            self._discard()
            raise

    def _open(self) -> OutputContainer:
        if not self._path.parent.is_dir():  # FFmpeg would say so only at the first frame
            raise MlkitError(f"{self._path}: cannot be written: no such folder")
        try:
            options = {"movflags": "faststart"}
            return av.open(str(self._aside), "w", format="mp4", options=options)
        except (FFmpegError, OSError) as err:
            raise MlkitError(f"{self._path}: cannot be written: {reason(err)}") from err

    def _add_stream(self, fps: float) -> VideoStream:
        rate = Fraction(fps).limit_denominator(1001)
        try:
            stream = self._container.add_stream("libx264", rate=rate)
        except UnknownCodecError as err:
            hint = "PyAV's wheels carry one: pip install --force-reinstall av"
            raise MlkitError("this FFmpeg has no encoder libx264", hint=hint) from err
        stream.height, stream.width = self._canvas.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return stream

    def write(self, frame: Frame) -> None:
        """Add a frame `[H, W, 3]` uint8 RGB.

        Raises:
            DataError: It is of another size.
            MlkitError: The disk is full.
        """
        height, width = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            got = f"{frame.dtype} {frame.shape}"
            raise DataError(f"{self._path}: expected uint8 {(height, width, 3)}, got {got}")
        self._canvas[:height, :width] = frame
        self._canvas[height:] = self._canvas[height - 1 : height]
        self._canvas[:, width:] = self._canvas[:, width - 1 : width]
        picture = av.VideoFrame.from_ndarray(self._canvas, format="rgb24")
        self._put(self._reformatter.reformat(picture, format="yuv420p", **_COLOURS))
        self._frames += 1

    def _put(self, picture: av.VideoFrame | None) -> None:
        """Encode a picture; None: what is left in the encoder."""
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (FFmpegError, OSError) as err:
            hint = "free some space on the disk"
            raise MlkitError(f"{self._path}: cannot be written: {reason(err)}", hint=hint) from err

    def close(self) -> None:
        """Finish the file.

        Raises:
            DataError: It holds no frame.
            MlkitError: The disk is full.
        """
        if not self._frames:
            self._discard()
            raise DataError(f"{self._path}: no frame was written")
        try:
            self._put(None)
            self._container.close()
            self._aside.replace(self._path)
        except BaseException as err:
            self._discard()
            if isinstance(err, FFmpegError | OSError):
                raise MlkitError(f"{self._path}: cannot be written: {reason(err)}") from err
            raise

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
        if kind is None:
            self.close()
        else:
            self._discard()
