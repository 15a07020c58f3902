"""What a track did, in numbers that people read."""

from __future__ import annotations

from itertools import pairwise
from math import hypot
from typing import TYPE_CHECKING

from mlkit_dvis.drawing.colours import hexadecimal
from mlkit_dvis.drawing.shapes import box_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.selection import TrackRow

_DECIDING = 5
_PATH_POINTS = 12


def summarise(row: TrackRow, footage: Footage, classes: Sequence[str]) -> dict[str, object]:
    """Return a track's class, life, size, way, and which frames decided its class.

    Frames count the tracked ones from 0; times are of the source, null where its rate is not
    known.
    """
    seen = row.visible
    first, last = (seen[0], seen[-1]) if seen else (None, None)
    others = [{"class": classes[label], "score": round(score, 5)} for label, score in row.others]
    return {
        "id": row.id,
        "class": row.name,
        "score": round(row.track.score, 5),
        "other_labels": others,
        "colour": hexadecimal(row.colour),
        "first_frame": first,
        "last_frame": last,
        "first_time_s": None if first is None else footage.seconds(first),
        "last_time_s": None if last is None else footage.seconds(last),
        "frames_visible": len(seen),
        "gaps": gaps(seen),
        "mean_area_px": round(sum(row.areas) / len(seen), 1) if seen else None,
        **_way(row, footage),
        "class_weights": [round(weight, 6) for weight in row.track.frame_weights],
        "deciding_frames": deciding_frames(row, footage),
    }


def gaps(seen: Sequence[int]) -> list[list[int]]:
    """Return `[first, last]` of each run of missing frames between the first and last seen."""
    return [[before + 1, after - 1] for before, after in pairwise(seen) if after - before > 1]


def deciding_frames(row: TrackRow, footage: Footage) -> list[dict[str, object]]:
    """Return the frames with the largest class weights, largest first."""
    weights = row.track.frame_weights
    best = sorted(range(len(weights)), key=lambda t: (-weights[t], t))[:_DECIDING]
    return [
        {"frame": t, "time_s": footage.seconds(t), "weight": round(weights[t], 6)} for t in best
    ]


def _way(row: TrackRow, footage: Footage) -> dict[str, object]:
    """Return some points of the way of the box's centre, its length, and the mean speed."""
    centres = {t: _centre(row, t) for t in row.visible}
    points = list(centres.items())
    distance = sum(hypot(b[0] - a[0], b[1] - a[1]) for (_, a), (_, b) in pairwise(points))
    frames = points[-1][0] - points[0][0] if points else 0
    speed = distance / frames if frames else 0.0
    rate = footage.fps / footage.stride if footage.fps else None
    steps = min(_PATH_POINTS, len(points))
    chosen = [points[round(i * (len(points) - 1) / max(steps - 1, 1))] for i in range(steps)]
    return {
        "path": [{"frame": t, "x": round(x, 1), "y": round(y, 1)} for t, (x, y) in chosen],
        "distance_px": round(distance, 1),
        "speed_px_per_frame": round(speed, 3),
        "speed_px_per_s": round(speed * rate, 2) if rate else None,
    }


def _centre(row: TrackRow, frame: int) -> tuple[float, float]:
    left, top, right, bottom = box_of(row.track.rles[frame]) or (0, 0, 0, 0)
    return (left + right) / 2, (top + bottom) / 2
