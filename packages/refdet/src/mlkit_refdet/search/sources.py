"""What is searched: a video, images, or a stream of a camera or a network."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import av
from av.error import FFmpegError

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.images import image_size, is_image, list_images, read_rgb
from mlkit_refdet.episodes.opening import stream_address
from mlkit_refdet.episodes.video import ToRgb, frame_times, rgb_frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from av.container import InputContainer

    from mlkit_refdet.episodes.images import Pixels

Kind = Literal["video", "images", "stream"]
Folder = Literal["auto", "video", "images"]
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_GENERIC = {"drone_video", "frames"}  # names that every video of the AeroEyes layout has
_WAIT_S = 10.0  # for a network stream to answer


@dataclass(frozen=True)
class Source:
    """What is searched.

    Args:
        name: Of the video.
        path: A file, a folder, a camera or an address.
        kind: "video": neighbouring frames are neighbours in time; "images": they are not;
            "stream": a video that is read once, from now on.
        frames: How many there are; None of a stream.
        fps: Frames a second; None where nothing says it.
        stamp: Changes where a file does.
        files: Of a folder.
    """

    name: str
    path: str
    kind: Kind
    frames: int | None = None
    fps: float | None = None
    stamp: str = ""
    files: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Pixels]:
        if self.files:
            return (read_rgb(file) for file in self.files)
        return stream_frames(self.path) if self.kind == "stream" else rgb_frames(self.path)


def open_source(path: str, *, folder: Folder = "auto", stream: bool = False) -> Source:
    """Return what a path or an address names; a stream is not opened yet.

    Args:
        path: A video, an image, a folder of images, a camera's number or device, an address.
        folder: What a folder's images are. auto: a video, if they are of one size and numbered.
        stream: Read a file as if it were a stream: once, from its start.

    Raises:
        DataError: There is nothing to read.
    """
    address, place = _address(path), Path(path)
    if address is not None:
        return Source(name_of(address), address, "stream")
    if place.is_dir():
        return _of_folder(place, folder)
    if not place.is_file():
        raise DataError(f"{path}: no such file or folder")
    if is_image(place):
        image_size(place)
        return Source(place.stem, path, "images", 1, stamp=stamp_of([place]), files=(place,))
    if stream:
        return Source(name_of(path), path, "stream")
    times = frame_times(place)
    return Source(name_of(path), path, "video", len(times.times), times.fps, stamp_of([place]))


def name_of(path: str) -> str:
    """Return a video's name: its file's, or its folder's where every such file is named alike."""
    place = Path(path)
    stem = place.stem if place.suffix else place.name
    if stem in _GENERIC and place.resolve().parent.name:
        return place.resolve().parent.name
    return stem or "stream"


def _address(path: str) -> str | None:
    """Return the address of a camera or a network stream; None for a file or folder."""
    if Path(path).is_file() or Path(path).is_dir():
        return None
    if path.isdecimal():
        return f"/dev/video{path}" if sys.platform == "linux" else path
    return path if path.startswith("/dev/") else stream_address(path)


def _of_folder(place: Path, folder: Folder) -> Source:
    files = list_images(place)
    if not files:
        raise DataError(f"{place}: holds no images")
    sizes = {image_size(file) for file in files}
    if folder == "video" and len(sizes) > 1:
        few = ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:3])
        hint = "frames of a video have one size; search them as --folder images"
        raise DataError(f"{place}: holds images of {len(sizes)} sizes: {few}", hint=hint)
    numbered = folder == "video" or (len(sizes) == 1 and len(files) > 1 and _numbered(files))
    kind = "video" if numbered and folder != "images" else "images"
    name, stamp = name_of(str(place.resolve())), stamp_of(files)
    return Source(name, str(place), kind, len(files), None, stamp, tuple(files))


def _numbered(files: Sequence[Path]) -> bool:
    """Return whether names differ in their last number alone."""
    found = [re.fullmatch(r"(.*?)(\d+)", file.stem) for file in files]
    return all(found) and len({match[1] for match in found if match}) == 1


def stamp_of(files: Sequence[Path]) -> str:
    """Return a digest of files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(repr((file.name, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def stream_frames(address: str) -> Iterator[Pixels]:
    """Yield the frames of a camera, a network stream or a file as they come, `[H, W, 3]`.

    Raises:
        DataError: It cannot be opened, holds no video, or breaks off.
    """
    with _open_stream(address) as container:
        if not container.streams.video:
            raise DataError(f"{address}: holds no video")
        to_rgb = ToRgb()
        try:
            for frame in container.decode(container.streams.video[0]):
                yield to_rgb(frame)
        except FFmpegError as err:
            raise DataError(f"{address}: cannot be read on: {_reason(err)}") from err


def stream_rate(address: str) -> float | None:
    """Return the frames a second that an open stream says it has; None where it does not say.

    Raises:
        DataError: It cannot be opened, or holds no video.
    """
    with _open_stream(address) as container:
        if not container.streams.video:
            raise DataError(f"{address}: holds no video")
        rate = container.streams.video[0].average_rate or container.streams.video[0].guessed_rate
    return float(rate) if rate else None


def _open_stream(address: str) -> InputContainer:
    camera = address.startswith("/dev/") or address.isdecimal()
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    try:
        if camera:
            return av.open(address, format=_CAMERAS.get(sys.platform, "v4l2"))
        return av.open(address, options=options, timeout=_WAIT_S if "://" in address else None)
    except (FFmpegError, OSError, ValueError) as err:
        hint = "a camera by number or device (0, /dev/video0), rtsp://…, http://…"
        raise DataError(f"{address}: cannot be opened: {_reason(err)}", hint=hint) from err


def _reason(err: Exception) -> str:
    return (getattr(err, "strerror", None) or str(err)).lower()
