"""The whole of `mlkit refdet find`: frames in, tracks, files and pictures out; it can go on."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mlkit_core.errors import DataError, InputError
from mlkit_core.report.video import VideoWriter
from mlkit_refdet.search.config import SearchOptions, TrackOptions
from mlkit_refdet.search.journal import Journal
from mlkit_refdet.search.pictures import draw_search
from mlkit_refdet.search.sources import stream_rate
from mlkit_refdet.search.submission import readable, submission, write_json
from mlkit_refdet.search.temporal import single_frames, tracks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.search.sources import Source
    from mlkit_refdet.search.temporal import Detection, Track

LOG = logging.getLogger("mlkit.refdet")
JOURNAL, DETECTIONS, SUBMISSION = "journal.jsonl", "detections.json", "submission.json"
RECORDING = "recording.mp4"
_USUAL_FPS = 25.0  # of a recording, where the stream has no rate


class Search(Protocol):
    """Looks for objects in frames."""

    def __call__(self, frames: Sequence[Pixels]) -> Sequence[Sequence[Detection]]:
        """Return each frame's detections, best first; a frame is `[H, W, 3]` uint8 RGB."""
        ...


class Told(Protocol):
    """Hears how far the work is."""

    def __call__(self, what: str, done: int, total: int | None, worked: int) -> None:
        """Take what is done, frames done, of how many, and how many of them just now."""
        ...


def _silent(what: str, done: int, total: int | None, worked: int) -> None:
    del what, done, total, worked


@dataclass(frozen=True)
class Request:
    """What to search, and what to write of it.

    Args:
        source: What is searched.
        out: Folder; made.
        names: Of the objects, in the order of detections' labels.
        options: How frames are searched.
        tracks: How detections become tracks. Of unrelated images none do, and `low` alone counts.
        about: What the journal must agree with to go on, beside source, names and options.
        photos: Name to reference photos, for the contact sheet.
        pictures: Whether overlay and sheet are written.
        overwrite: Whether an earlier search's journal in the folder may go.
        limit: Frames after which to stop; None: all.
    """

    source: Source
    out: Path
    names: Sequence[str] = ()
    options: SearchOptions = field(default_factory=SearchOptions)
    tracks: TrackOptions = field(default_factory=TrackOptions)
    about: Mapping[str, Any] = field(default_factory=dict)
    photos: Mapping[str, Sequence[Pixels]] = field(default_factory=dict)
    pictures: bool = True
    overwrite: bool = False
    limit: int | None = None


@dataclass
class _Ended:
    """How far frames were read, and why no further."""

    frames: int = 0
    broken: DataError | None = None


def find(request: Request, search: Search, told: Told = _silent) -> dict[str, Any]:
    """Search a source and write what was found; return what `detections.json` says.

    Files: `journal.jsonl` (every frame's detections), `detections.json` (intervals and boxes by
    object), `submission.json`, and pictures. Stopped, the same request goes on where it stood. A
    stream is recorded, ends with Ctrl-C, and is never gone on with. Of a file that breaks off, what
    lies before is written, and the error follows.

    Raises:
        DataError: The source holds no frame, or breaks off.
        InputError: The folder holds another search.
        KeyboardInterrupt: It was stopped, and the source is no stream.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    with _journal(request) as journal:
        ended = _search(request, search, journal, told)
        detections = {f: d for f, d in journal.found.items() if f < ended.frames}
    if not ended.frames:
        raise ended.broken or DataError(f"{request.source.path}: holds no frames")
    source = _as_recorded(request, ended)
    found = _tracks(request, detections)
    summary = readable(source, request.names, found, len(detections))
    summary["complete"] = ended.broken is None
    write_json(request.out / DETECTIONS, summary)
    write_json(request.out / SUBMISSION, submission(source.name, request.names, found))
    if request.pictures:
        draw_search(
            source,
            request.names,
            found,
            request.out,
            frames=ended.frames,
            photos=request.photos,
            told=lambda done, total: told("drawing", done, total, done),
        )
    if ended.broken is not None:
        raise ended.broken
    return summary


def _journal(request: Request) -> Journal:
    source, path = request.source, request.out / JOURNAL
    is_stream = source.kind == "stream"
    if is_stream and path.exists() and not request.overwrite:
        hint = "a stream cannot be gone on with: name another folder, or say --overwrite"
        raise InputError(f"{request.out}: holds an earlier search", hint=hint)
    if is_stream:
        path.unlink(missing_ok=True)
    options = request.options.model_dump(exclude={"batch"})
    about = {
        "source": source.path,
        "file": source.stamp,
        "kind": source.kind,
        "objects": list(request.names),
        **options,
        **request.about,
    }
    return Journal(path, about, overwrite=request.overwrite)


def _search(request: Request, search: Search, journal: Journal, told: Told) -> _Ended:
    """Search what the journal lacks; a stream is recorded at the same time."""
    source, ended, worked = request.source, _Ended(), 0
    total = _total(request)
    with ExitStack() as files:
        record = _recorder(request, files) if source.kind == "stream" else None
        try:
            for numbers, frames in _groups(request, journal, ended, record):
                if frames:
                    journal.add(numbers, search(frames))
                    worked += len(frames)
                told("searching", ended.frames, total, worked)
        except DataError as err:
            ended.broken = err
        except KeyboardInterrupt:
            if source.kind != "stream":
                done = f"{len(journal.found)} searched frames"
                LOG.warning("stopped: %s are kept, the same command goes on", done)
                raise
            LOG.warning("stopped after %d frames", ended.frames)
        if record is not None and not ended.frames:
            raise ended.broken or DataError(f"{source.path}: holds no frames")
    return ended


def _total(request: Request) -> int | None:
    known = [n for n in (request.source.frames, request.limit) if n is not None]
    return min(known) if known else None


def _recorder(request: Request, files: ExitStack) -> VideoWriter:
    fps = stream_rate(request.source.path) or _USUAL_FPS
    return files.enter_context(VideoWriter(request.out / RECORDING, fps, crf=17))


def _groups(
    request: Request, journal: Journal, ended: _Ended, record: VideoWriter | None
) -> Iterator[tuple[list[int], list[Pixels]]]:
    """Yield numbers and frames that are to be searched, as many as fit a batch; count all."""
    options = request.options
    numbers: list[int] = []
    frames: list[Pixels] = []
    size = 1 if record is not None else options.batch
    try:
        for number, frame in enumerate(request.source):
            if number == request.limit:
                break
            if record is not None:
                record.write(frame)
            wanted = number % options.stride == 0 and number not in journal.found
            if wanted:
                numbers.append(number)
                frames.append(frame)
            ended.frames = number + 1
            if len(frames) == size or not (wanted or frames):
                yield numbers, frames
                numbers, frames = [], []
    except DataError:
        if frames:
            yield numbers, frames
        raise
    yield numbers, frames


def _as_recorded(request: Request, ended: _Ended) -> Source:
    """Return what is drawn on: of a stream its recording."""
    source = request.source
    if source.kind != "stream":
        return source
    recording = request.out / RECORDING
    fps = stream_rate(str(recording))
    return replace(source, path=str(recording), kind="video", frames=ended.frames, fps=fps)


def _tracks(request: Request, detections: Mapping[int, Sequence[Detection]]) -> list[Track]:
    if request.source.kind == "images":
        return single_frames(detections, request.tracks.low)
    return tracks_of(detections, request.tracks, stride=request.options.stride)
