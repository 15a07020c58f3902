"""`tracks.json`: a readable summary of every track, and YouTube-VIS result rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from mlkit_dvis.drawing.summaries import summarise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.live import LiveRecord
    from mlkit_dvis.drawing.tracked import TrackedVideo
    from mlkit_dvis.results import InstanceTrack

VIDEO_ID = 1


def result_row(track: InstanceTrack) -> dict[str, object]:
    """Return a track as YouTube-VIS' evaluation reads it; category ids count from 1."""
    return {
        "video_id": VIDEO_ID,
        "score": round(track.score, 6),
        "category_id": track.label + 1,
        "segmentations": list(track.rles),
    }


def head(
    footage: Footage, provenance: Mapping[str, object], classes: Sequence[str]
) -> dict[str, object]:
    """Return what stands before the tracks: the video and the model."""
    height, width = footage.size
    return {
        "video": {
            "id": VIDEO_ID,
            "path": footage.path,
            "height": height,
            "width": width,
            "fps": footage.fps,
            "frames": footage.frames,
            "stride": footage.stride,
        },
        "model": {
            **provenance,
            "classes": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        },
    }


def write_tracks_file(
    path: Path,
    start: Mapping[str, object],
    summaries: Iterable[Mapping[str, object]],
    results: Iterable[Mapping[str, object]],
) -> None:
    """Write the file under another name and rename it when it is whole.

    One track is one line, and only one is in memory at a time.

    Args:
        path: Of the file.
        start: What `head` gave, and anything else that stands first.
        summaries: One for each object.
        results: One for each (object, label).
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(start, indent=1, ensure_ascii=False, default=str)[:-2])
            _write_list(file, "tracks", summaries)
            _write_list(file, "results", results)
            file.write("\n}\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _write_list(file: IO[str], name: str, items: Iterable[Mapping[str, object]]) -> None:
    file.write(f',\n "{name}": [')
    for index, item in enumerate(items):
        line = json.dumps(item, ensure_ascii=False, separators=(",", ": "), allow_nan=False)
        file.write(("," if index else "") + "\n  " + line)
    file.write("]")


def write_result(path: Path, start: Mapping[str, object], video: TrackedVideo) -> None:
    """Write a tracked video: its objects, and its reported tracks."""
    summaries = (summarise(row, video.footage, video.classes) for row in video.rows)
    write_tracks_file(path, start, summaries, map(result_row, video.tracks))


def write_record(
    path: Path, record: LiveRecord, footage: Footage, provenance: Mapping[str, object]
) -> None:
    """Write what a stream's objects did, one object in memory at a time."""
    footage = replace(footage, frames=record.frames)
    start = head(footage, provenance, record.classes)
    summaries = (summarise(row, footage, record.classes) for row in record.rows())
    results = (result_row(row.track) for row in record.rows())
    write_tracks_file(path, start, summaries, results)
