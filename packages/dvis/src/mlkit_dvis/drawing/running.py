"""From a video or a stream to a folder of results, with a model that is loaded."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlkit_core.errors import InputError
from mlkit_dvis.drawing.footage import Footage
from mlkit_dvis.drawing.live import LiveRecord
from mlkit_dvis.drawing.outputs import OVERLAY, TRACKS, write_outputs
from mlkit_dvis.drawing.selection import class_labels, reported_tracks, track_rows
from mlkit_dvis.drawing.streams import Stream, is_stream, open_stream
from mlkit_dvis.drawing.tracked import DrawingOptions, TrackedVideo
from mlkit_dvis.drawing.tracks_file import write_record
from mlkit_dvis.pipeline import track_live, track_video
from mlkit_dvis.video import VideoWriter, open_source, read_frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlkit_dvis.drawing.tracked import Tell
    from mlkit_dvis.pipeline import LoadedModel
    from mlkit_dvis.results import VideoResult

LOG = logging.getLogger("mlkit.dvis")
_FOLDER_FPS = 10.0  # of what is written where the source has no rate of its own


@dataclass(frozen=True)
class Request:
    """What to do with which source.

    Args:
        source: A file, a folder of frames, an image, or a stream.
        out: Folder to write to; it exists.
        classes: Names of what is reported; empty: all.
        score: Tracks below it are not reported.
        stride: Every how many frames one is taken.
        max_tracks: Results of the video; None: as the model's head says. Of a stream: objects of a
            frame.
        video: Whether to write videos.
        fps: Of these; None: the source's, as it comes out after `stride`.
        layers: Decoder layers whose attention is shown; empty: none.
        queries: "all" also shows the attention of queries that no track follows.
        unmatched_top: Queries of a frame in the table of unmatched ones.
        spill: Folder for temporary files; None: the system's.
        masks: Whether mask features wait in a file or are computed a second time.
    """

    source: str
    out: Path
    classes: tuple[str, ...] = ()
    score: float = 0.3
    stride: int = 1
    max_tracks: int | None = None
    video: bool = True
    fps: float | None = None
    layers: tuple[int, ...] = ()
    queries: Literal["tracks", "all"] = "tracks"
    unmatched_top: int = 10
    spill: Path | None = None
    masks: Literal["spill", "recompute"] = "spill"


@dataclass(frozen=True)
class Finished:
    """What came of it.

    Args:
        frames: Tracked.
        objects: Id, class and score of each.
        written: Files, in the order in which they were finished.
    """

    frames: int
    objects: tuple[tuple[int, str, float], ...]
    written: tuple[Path, ...]


def track_to_folder(request: Request, loaded: LoadedModel, tell: Tell) -> Finished:
    """Track a whole video and write everything of it.

    Raises:
        InputError: The source cannot be read, or a class is unknown.
    """
    written: list[Path] = []
    options: dict[str, Any] = {"attention": request.layers, "spill": request.spill}
    options |= {"masks": request.masks}
    options |= {} if request.max_tracks is None else {"max_tracks": request.max_tracks}
    with _explained_stop(request.out, written):
        result = track_video(
            loaded,
            Path(request.source),
            stride=request.stride,
            on_window=partial(tell, "tracking"),
            **options,
        )
        video, drawing = _tracked(request, loaded, result)
        with closing(result):
            for path in write_outputs(video, request.out, drawing, tell):
                written.append(path)  # one by one: a stop tells of those before
    objects = tuple((row.id, row.name, row.track.score) for row in video.rows)
    return Finished(result.num_frames, objects, tuple(written))


def _tracked(
    request: Request, loaded: LoadedModel, result: VideoResult
) -> tuple[TrackedVideo, DrawingOptions]:
    """Return what is reported of a result, and what is drawn of it."""
    path, classes = Path(request.source), loaded.classes
    rate = open_source(path).fps
    labels = class_labels(request.classes, classes)
    tracks = reported_tracks(result.tracks, labels, request.score)
    video = TrackedVideo(
        result=result,
        tracks=tracks,
        rows=track_rows(tracks, classes),
        footage=Footage(request.source, result.size, rate, result.num_frames, request.stride),
        classes=classes,
        provenance=loaded.provenance,
        frames=lambda: read_frames(path, stride=request.stride),
    )
    return video, DrawingOptions(
        fps=request.fps or (rate or _FOLDER_FPS) / request.stride,
        open_video=VideoWriter,
        video=request.video,
        layers=request.layers,
        queries=request.queries,
        unmatched_top=request.unmatched_top,
    )


@contextmanager
def _explained_stop(out: Path, written: Sequence[Path]) -> Iterator[None]:
    """Say, when the person stops the work, what is finished."""
    try:
        yield
    except KeyboardInterrupt:
        done = ", ".join(path.name for path in written) or "nothing"
        LOG.warning("stopped: of the files in %s is finished: %s", out, done)
        raise


def follow_to_folder(request: Request, loaded: LoadedModel, tell: Tell) -> Finished:
    """Follow a source frame by frame; write the overlay as it comes, the tracks at its end.

    A person ends an endless source by Ctrl-C; then all that came before is written.

    Raises:
        InputError: The source cannot be read, or a class is unknown.
        KeyboardInterrupt: A source that has an end was stopped before it.
    """
    labels = class_labels(request.classes, loaded.classes)
    with _opened(request) as stream, LiveRecord(labels, request.score, loaded.classes) as record:
        footage = Footage(request.source, stream.size, stream.fps, None, request.stride)
        stopped = _draw_live(request, loaded, stream, record, footage, tell)
        if not record.frames:
            (request.out / OVERLAY).unlink(missing_ok=True)
            if stopped:
                raise KeyboardInterrupt
            raise InputError(f"{request.source}: holds no frame")
        write_record(request.out / TRACKS, record, footage, loaded.provenance)
        objects = tuple(record.objects())
    if stopped:
        LOG.warning("stopped: %s holds the %d frames before", request.out, record.frames)
        if not stream.endless:
            raise KeyboardInterrupt
    names = (OVERLAY, TRACKS) if request.video else (TRACKS,)
    return Finished(record.frames, objects, tuple(request.out / name for name in names))


def _draw_live(
    request: Request,
    loaded: LoadedModel,
    stream: Stream,
    record: LiveRecord,
    footage: Footage,
    tell: Tell,
) -> bool:
    """Draw until the stream ends or the person ends it; return whether it was the person."""
    frames = islice(stream.frames, 0, None, request.stride)
    fps = request.fps or stream.fps / request.stride
    with ExitStack() as files:
        writer = None
        if request.video:
            video = VideoWriter(request.out / OVERLAY, fps, stream.size)
            writer = files.enter_context(video)
        try:
            for live in track_live(loaded, frames, score=request.score):
                picture = record.add(live, footage.caption(live.index), request.max_tracks)
                if writer is not None:
                    writer.write(picture)
                tell("following", live.index + 1, None)
        except KeyboardInterrupt:
            if not record.frames:
                raise  # a film without a frame is discarded, not closed
            return True
    return False


@contextmanager
def _opened(request: Request) -> Iterator[Stream]:
    """Open a stream, or a file, folder or image as if it were one."""
    if is_stream(request.source):
        with open_stream(request.source) as stream:
            yield stream
        return
    path = Path(request.source)
    known = open_source(path)
    fps = known.fps or _FOLDER_FPS
    yield Stream(request.source, fps, known.size, False, read_frames(path))
