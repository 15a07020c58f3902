"""What a search found, as a contest wants it and as people read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlkit_refdet.search.temporal import Track, best_of_each_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_refdet.search.motion import Xyxy
    from mlkit_refdet.search.sources import Source


def submission(video: str, names: Sequence[str], tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Return the contest's form: a video's intervals, with at most one box in a frame.

    Boxes are whole pixels, at least one in each direction. One object gives one entry, without a
    track its list is empty; of several objects each has an entry, which names it as `object`.
    """
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(names):
        best = best_of_each_frame([track for track in tracks if track.label == label])
        boxes = [{"frame": frame, **_whole(box)} for (frame, _), (box, _) in sorted(best.items())]
        row: dict[str, Any] = {"video_id": video}
        if len(names) > 1:
            row["object"] = name
        rows.append(row | {"detections": [{"bboxes": run} for run in _runs(boxes)]})
    return rows


def _whole(box: Xyxy) -> dict[str, int]:
    x1, y1, x2, y2 = (round(number) for number in box)
    return {"x1": x1, "y1": y1, "x2": max(x2, x1 + 1), "y2": max(y2, y1 + 1)}


def _runs(boxes: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    runs: list[list[dict[str, Any]]] = []
    for row in boxes:
        if runs and runs[-1][-1]["frame"] + 1 == row["frame"]:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def readable(
    source: Source, names: Sequence[str], tracks: Sequence[Track], searched: int
) -> dict[str, Any]:
    """Return intervals by object: frames, seconds, mean and best score, boxes.

    `bridged` counts frames without a detection of their own. Where images are unrelated, each is
    an interval and named.
    """
    objects = []
    for label, name in enumerate(names):
        own = [track for track in tracks if track.label == label]
        frames = {frame for track in own for frame in track.boxes}
        intervals = [_interval(source, track) for track in own]
        objects.append({"name": name, "frames": len(frames), "intervals": intervals})
    return {
        "video": source.name,
        "source": source.path,
        "fps": source.fps,
        "frames_searched": searched,
        "objects": objects,
    }


def _interval(source: Source, track: Track) -> dict[str, Any]:
    first, last = min(track.boxes), max(track.boxes)
    row: dict[str, Any] = {"first": first, "last": last}
    if source.fps:
        row["seconds"] = [round(frame / source.fps, 2) for frame in (first, last)]
    if source.kind == "images":
        row["image"] = source.files[first].name
    return row | {
        "score": round(track.score, 4),
        "best_score": round(max(track.scores.values()), 4),
        "bridged": len(track.boxes) - len(track.scores),
        "boxes": {str(f): [round(v, 1) for v in track.boxes[f]] for f in sorted(track.boxes)},
    }


def write_json(path: Path, value: object) -> None:
    """Write JSON; the file appears when it is whole."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)
