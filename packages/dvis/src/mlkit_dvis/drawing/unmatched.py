"""What the segmenter looked at and nothing was reported of: weeds, debris, missed objects."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import hypot
from typing import TYPE_CHECKING

import numpy as np

from mlkit_dvis.drawing.heatmaps import attention_centres, covered_share, share_outside
from mlkit_dvis.drawing.shapes import decode, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.selection import TrackRow
    from mlkit_dvis.results import QueryTable, VideoResult

_APART = 0.1  # of the frame's diagonal: nearer is the same place
_COLUMNS = (
    "frame",
    "time_s",
    "query",
    "class",
    "score",
    "no_object_probability",
    "attention_outside_masks",
    "attention_x_px",
    "attention_y_px",
)


@dataclass(frozen=True)
class UnmatchedQuery:
    """A query that no reported track follows in a frame.

    Args:
        frame: Of the tracked ones, from 0.
        query: Of the segmenter.
        label: Its best class.
        score: Of that class.
        no_object: Probability that it is nothing.
        outside: Share of its attention that lies outside the masks of all reported tracks.
        x: Centre of its attention, frame pixels from the left.
        y: The same from the top.
    """

    frame: int
    query: int
    label: int
    score: float
    no_object: float
    outside: float
    x: float
    y: float

    @property
    def weight(self) -> float:
        """What the table is sorted by: sure of an object, and looking elsewhere."""
        return self.score * self.outside


def main_layer(table: QueryTable) -> int:
    """Return the decoder layer to tell of: the last, where it was asked for."""
    return -1 if -1 in table.layers else table.layers[0]


def unmatched_queries(
    result: VideoResult, table: QueryTable, rows: Sequence[TrackRow], top: int
) -> list[UnmatchedQuery]:
    """Return at most `top` queries of each frame, those of the whole video with most weight first.

    Args:
        result: The tracked video.
        table: Of its queries.
        rows: The reported objects.
        top: How many of a frame.
    """
    found: list[UnmatchedQuery] = []
    for frame in range(result.num_frames):
        found += _of_frame(result, table, rows, frame, top)
    return sorted(found, key=lambda q: (-q.weight, q.frame, q.query))


def _of_frame(
    result: VideoResult, table: QueryTable, rows: Sequence[TrackRow], frame: int, top: int
) -> list[UnmatchedQuery]:
    attention = table.attention(frame, main_layer(table))  # [Q, h, w]
    masks = (decode(row.track.rles[frame]) for row in rows)
    grid = (attention.shape[1], attention.shape[2])
    covered = covered_share(union(masks, result.size), result.content, grid)
    outside = share_outside(attention, covered)
    weights = table.scores[frame] * outside
    followed = [query for row in rows if (query := row.query(frame)) >= 0]
    weights[followed] = -1
    order = np.argsort(-weights, kind="stable")[:top]
    best = order[weights[order] >= 0]
    centres = attention_centres(attention[best], result.content, result.size)
    return [
        UnmatchedQuery(
            frame=frame,
            query=int(query),
            label=int(table.labels[frame, query]),
            score=float(table.scores[frame, query]),
            no_object=float(table.no_object[frame, query]),
            outside=float(outside[query]),
            x=float(x),
            y=float(y),
        )
        for query, (x, y) in zip(best, centres, strict=True)
    ]


def distinct_places(
    queries: Iterable[UnmatchedQuery], size: tuple[int, int], count: int
) -> list[UnmatchedQuery]:
    """Return the first `count` that look at different places of the frame, whenever they do."""
    apart = _APART * hypot(*size)
    kept: list[UnmatchedQuery] = []
    for query in queries:
        if len(kept) == count:
            break
        if all(hypot(one.x - query.x, one.y - query.y) >= apart for one in kept):
            kept.append(query)
    return kept


def write_unmatched(
    path: Path, queries: Iterable[UnmatchedQuery], footage: Footage, classes: Sequence[str]
) -> None:
    """Write the table as CSV, one line for each query and frame."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for q in queries:
            seconds = footage.seconds(q.frame)
            shares = (f"{value:.4f}" for value in (q.score, q.no_object, q.outside))
            time = "" if seconds is None else seconds
            place = (f"{q.x:.1f}", f"{q.y:.1f}")
            writer.writerow((q.frame, time, q.query, classes[q.label], *shares, *place))
