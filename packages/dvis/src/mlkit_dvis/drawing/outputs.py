"""Everything that is written of a tracked video, in one folder."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mlkit_core.errors import InputError
from mlkit_dvis.drawing.attention import NOTE, QueryGrids, grid_frames
from mlkit_dvis.drawing.attention_files import FOLDER, write_attention
from mlkit_dvis.drawing.overlay import Drawn, draw_objects
from mlkit_dvis.drawing.shapes import decode
from mlkit_dvis.drawing.sheet import ContactSheet
from mlkit_dvis.drawing.tracked import play
from mlkit_dvis.drawing.tracks_file import head, write_result
from mlkit_dvis.drawing.unmatched import distinct_places, unmatched_queries, write_unmatched
from mlkit_dvis.drawing.unmatched_sheet import UnmatchedSheet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.tracked import (
        DrawingOptions,
        FrameSink,
        FrameWriter,
        Tell,
        TrackedVideo,
    )
    from mlkit_dvis.results import QueryTable

TRACKS, OVERLAY, SHEET = "tracks.json", "overlay.mp4", "contact_sheet.png"
STILL = "overlay.png"  # in the place of a video of one frame
UNMATCHED, UNMATCHED_SHEET = "unmatched.csv", "unmatched.png"
_GRIDS, _PLACES = 6, 20


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that results cannot go to.

    Raises:
        InputError: It holds something and may not be overwritten, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file", hint="name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        hint = "name another folder, or say --overwrite to replace earlier results in it"
        raise InputError(f"--out: {folder} exists and is not empty", hint=hint)


def prepare_folder(folder: Path) -> None:
    """Make a folder for results; earlier results are removed from it, other files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (TRACKS, OVERLAY, STILL, SHEET, UNMATCHED, UNMATCHED_SHEET):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def write_outputs(
    video: TrackedVideo, folder: Path, options: DrawingOptions, tell: Tell
) -> Iterator[Path]:
    """Write everything, and yield each file when it is finished.

    Memory does not grow with the video: its frames are read again, one at a time.
    """
    start = head(video.footage, video.provenance, video.classes)
    table = video.result.queries if options.layers else None
    if table is not None:
        start["attention"] = {"layers": list(options.layers), "note": NOTE}
    write_result(folder / TRACKS, start, video)
    yield folder / TRACKS
    if table is None:
        yield from _write_pictures(video, folder, options, (), tell)
        return
    yield from _write_looked_at(video, table, folder, options, tell)
    if options.video:
        yield from write_attention(video, table, folder / FOLDER, options, tell)


def _write_looked_at(
    video: TrackedVideo, table: QueryTable, folder: Path, options: DrawingOptions, tell: Tell
) -> Iterator[Path]:
    """Write the usual pictures, and beside them the queries that nothing was reported of."""
    queries = unmatched_queries(video.result, table, video.rows, options.unmatched_top)
    write_unmatched(folder / UNMATCHED, queries, video.footage, video.classes)
    yield folder / UNMATCHED
    places = distinct_places(queries, video.result.size, _PLACES)
    sheet = UnmatchedSheet(places, video, table)
    grids = _grids(video, table, folder / FOLDER, options) if options.queries == "all" else None
    extra = (sheet,) if grids is None else (sheet, grids)
    yield from _write_pictures(video, folder, options, extra, tell)
    sheet.draw().save(folder / UNMATCHED_SHEET)
    yield folder / UNMATCHED_SHEET
    yield from () if grids is None else grids.written


def _grids(
    video: TrackedVideo, table: QueryTable, folder: Path, options: DrawingOptions
) -> QueryGrids:
    folder.mkdir(exist_ok=True)
    frames = grid_frames(video.result.num_frames, _GRIDS)
    return QueryGrids(video, table, frames, options.layers, folder)


def _write_pictures(
    video: TrackedVideo,
    folder: Path,
    options: DrawingOptions,
    extra: tuple[FrameSink, ...],
    tell: Tell,
) -> Iterator[Path]:
    """Write what one reading of the video gives: the overlay and the contact sheet."""
    sheet = ContactSheet(video.rows, video.footage, video.classes)
    sinks: list[FrameSink] = [sheet, *extra]
    overlay = folder / (STILL if video.still else OVERLAY) if options.video else None
    with ExitStack() as files:
        if overlay is not None:
            writer = files.enter_context(options.open(overlay, video, video.result.size))
            sinks.append(Overlay(video, writer))
        play(video, sinks, "drawing", tell)
    if overlay is not None:
        yield overlay
    sheet.draw().save(folder / SHEET)
    yield folder / SHEET


class Overlay:
    """Writes a video with its objects drawn; each is drawn once, with its best label."""

    def __init__(self, video: TrackedVideo, writer: FrameWriter) -> None:
        self._video, self._writer = video, writer

    def add(self, index: int, frame: Picture) -> None:
        """Draw a frame; masks are decoded for this frame alone."""
        shapes = [(row, decode(row.track.rles[index])) for row in self._video.rows]
        objects = [Drawn(shape, row.colour, row.title) for row, shape in shapes if shape]
        self._writer.write(draw_objects(frame, objects, self._video.footage.caption(index)))
