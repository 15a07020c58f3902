"""Objects of a stream: drawn as they come, and kept in a file until it ends."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from mlkit_dvis.drawing.colours import TrackColours
from mlkit_dvis.drawing.overlay import Drawn, draw_objects
from mlkit_dvis.drawing.selection import TrackRow, object_title
from mlkit_dvis.drawing.shapes import encode, shape_of
from mlkit_dvis.results import InstanceTrack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import TracebackType

    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.shapes import Shape
    from mlkit_dvis.pipeline import LiveFrame, LiveTrack
    from mlkit_dvis.results import Rle

_TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE tracks (id INTEGER PRIMARY KEY, label INTEGER, score REAL, colour TEXT);
CREATE TABLE masks (track INTEGER, frame INTEGER, rle TEXT, PRIMARY KEY (track, frame))
    WITHOUT ROWID;
"""


class LiveRecord:
    """Keeps the masks of a stream's objects in a temporary file, so that memory does not grow.

    Args:
        labels: Of the classes that are reported.
        score: Objects below it are neither drawn nor kept.
        classes: Names, by label.
    """

    def __init__(self, labels: Collection[int], score: float, classes: Sequence[str]) -> None:
        self._labels, self._score = labels, score
        self.classes = tuple(classes)
        self._colours = TrackColours()
        # An unnamed file that goes with the connection; no transactions, nothing survives anyway.
        self._data = sqlite3.connect("", isolation_level=None)
        self._data.executescript(_TABLES)
        self.frames = 0

    def add(self, live: LiveFrame, caption: str, limit: int | None = None) -> Picture:
        """Keep a frame's objects and return the frame with them drawn.

        Args:
            live: The frame.
            caption: Stands in its corner.
            limit: How many objects are shown and kept, the best ones; None: all.
        """
        size = (live.frame.shape[0], live.frame.shape[1])
        self.frames = live.index + 1
        drawn: list[Drawn] = []
        for row in live.rows:
            wanted = row.label in self._labels and row.score >= self._score
            shape = shape_of(row.mask) if wanted and len(drawn) != limit else None
            if shape is None:
                continue
            colour = self._colours.of(row.id)
            title = object_title(self.classes[row.label], row.id, row.score)
            drawn.append(Drawn(shape, colour, title))
            self._keep(row, live.index, shape, size)
        return draw_objects(live.frame, drawn, caption)

    def _keep(self, row: LiveTrack, frame: int, shape: Shape, size: tuple[int, int]) -> None:
        colour = json.dumps(self._colours.of(row.id))
        self._data.execute(
            "INSERT INTO tracks VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET label = excluded.label, score = excluded.score",
            (row.id, row.label, row.score, colour),
        )
        rle = json.dumps(encode(shape, size))
        self._data.execute("INSERT INTO masks VALUES (?, ?, ?)", (row.id, frame, rle))

    def objects(self) -> Iterator[tuple[int, str, float]]:
        """Yield id, class and score of each object, best first."""
        query = "SELECT id, label, score FROM tracks ORDER BY score DESC, id"
        for number, label, score in self._data.execute(query):
            yield number, self.classes[label], score

    def rows(self) -> Iterator[TrackRow]:
        """Yield the objects, best first, one at a time; label and score are the last known."""
        query = "SELECT id, label, score, colour FROM tracks ORDER BY score DESC, id"
        for number, label, score, colour in self._data.execute(query):
            track = InstanceTrack(label, score, self._rles(number), row=number)
            red, green, blue = json.loads(colour)
            yield TrackRow(track, self.classes[label], (), (red, green, blue))

    def _rles(self, number: int) -> tuple[Rle | None, ...]:
        rles: list[Rle | None] = [None] * self.frames
        query = "SELECT frame, rle FROM masks WHERE track = ?"
        for frame, rle in self._data.execute(query, (number,)):
            rles[frame] = json.loads(rle)
        return tuple(rles)

    def __enter__(self) -> LiveRecord:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()
