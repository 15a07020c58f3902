"""H.264 video that browsers play (PyAV: extra `video`)."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mlkit_core.errors import DataError, MlkitError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from av.container import OutputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

# Without these, each channel comes out more than one level too dark (43 dB against 53).
EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
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
        size: Height and width of the frames in pixels; None: the first frame's, to which others
            are scaled, as a stream may change its size.
        crf: x264's quality; less is better.

    Attributes: `frames`, how many were written.

    Raises:
        DataError: Size or rate is none.
        MlkitError: The disk does not take it, or this FFmpeg has no H.264 encoder.
    """

    def __init__(
        self, path: Path, fps: float, size: tuple[int, int] | None = None, *, crf: int = 20
    ) -> None:
        if fps <= 0 or (size is not None and min(size) < 1):
            raise DataError(f"{path}: expected a rate and a size above 0, got {fps} and {size}")
        self.frames = 0
        self._path, self._size, self._crf = path, size, crf
        self._rate = Fraction(fps).limit_denominator(1001)
        self._aside = path.with_name(f".{path.name}.part")
        self._reformatter = VideoReformatter()
        self._container = self._open()
        try:
            self._stream = self._add_stream(size) if size is not None else None
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

    def _add_stream(self, size: tuple[int, int]) -> VideoStream:
        try:
            stream = self._container.add_stream("libx264", rate=self._rate)
        except UnknownCodecError as err:
            hint = "PyAV's wheels carry one: pip install --force-reinstall av"
            raise MlkitError("this FFmpeg has no encoder libx264", hint=hint) from err
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(self._crf), "preset": "veryfast"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        return stream

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame `[H, W, 3]` uint8 RGB.

        Raises:
            DataError: It is of another size than the one that was given.
            MlkitError: The disk is full.
        """
        height, width = self._size or frame.shape[:2]
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            got = f"{frame.dtype} {frame.shape}"
            raise DataError(f"{self._path}: expected uint8 {(height, width, 3)}, got {got}")
        if self._stream is None:
            self._stream = self._add_stream((height, width))
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
        if not self.frames:
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


def reason(err: Exception) -> str:
    """Return FFmpeg's or the system's words for an error."""
    return (getattr(err, "strerror", None) or str(err)).lower()
