"""Result files for evaluation: YouTube-VIS rows, or the `tracks.json` of `mlkit dvis run`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError
from mlkit_dvis.clips.masks import to_rle
from mlkit_dvis.clips.problems import Problems
from mlkit_dvis.results import InstanceTrack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_dvis.clips.dataset import ClipSet, Video

_HINT = "a list of {video_id, score, category_id, segmentations}, or a tracks.json"


@dataclass(frozen=True)
class Results:
    """What a result file says of annotated videos.

    Args:
        videos: Those that the file is about: all, or the one of a `tracks.json`.
        tracks: By video id, in the file's order.
    """

    videos: tuple[Video, ...]
    tracks: Mapping[int, Sequence[InstanceTrack]]


def read_results(path: Path, clips: ClipSet, categories: Mapping[int, int]) -> Results:
    """Return the tracks of a result file; every problem at once.

    Args:
        path: The JSON.
        clips: The annotated videos.
        categories: Category id of the annotations to label.

    Raises:
        DataError: A row names what the annotations do not hold, or does not fit its video.
    """
    content = _content(path)
    videos, named = clips.videos, dict(categories)
    if isinstance(content, dict):
        video = _video_of(path, content, clips)
        videos, named = (video,), _own_categories(content, clips) or named
        rows = [_renamed(row, video) for row in content["results"]]
    else:
        rows = content
    problems = Problems(path)
    found: dict[int, list[InstanceTrack]] = {video.id: [] for video in videos}
    known = {video.id: video for video in videos}
    for number, row in enumerate(rows):
        track = _track(f"results[{number}]", row, known, named, problems)
        if track is not None:
            found[row["video_id"]].append(track)
    problems.raise_any()
    return Results(videos, {number: _with_rows(tracks) for number, tracks in found.items()})


def _content(path: Path) -> Any:  # noqa: ANN401  # a JSON's
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise DataError(f"{path}: not a readable JSON file: {err}") from err
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: no results: expected a list of rows", hint=_HINT)
    return content


def _video_of(path: Path, content: Mapping[str, Any], clips: ClipSet) -> Video:
    """Return the annotated video that a `tracks.json` is of: the only one, or that of its name."""
    if len(clips.videos) == 1:
        return clips.videos[0]
    told = content.get("video")
    source = str(told.get("path", "")) if isinstance(told, dict) else ""
    name = PurePath(source).stem
    alike = [video for video in clips.videos if PurePath(video.name).name == name]
    if len(alike) != 1:
        hint = "annotations of that video alone, or a list of rows with the video's id"
        raise DataError(f"{path}: {len(alike)} annotated videos are named {name!r}", hint=hint)
    return alike[0]


def _own_categories(content: Mapping[str, Any], clips: ClipSet) -> dict[int, int]:
    """Return category ids to labels by the names that a `tracks.json` gives."""
    model = content.get("model")
    classes: list[Any] = model.get("classes", []) if isinstance(model, dict) else []
    return {
        row["id"]: clips.classes.index(row["name"])
        for row in classes
        if isinstance(row, dict) and "id" in row and row.get("name") in clips.classes
    }


def _renamed(row: Any, video: Video) -> Any:  # noqa: ANN401  # a JSON's
    return {**row, "video_id": video.id} if isinstance(row, dict) else row


def _track(
    where: str,
    row: Any,  # noqa: ANN401  # a JSON's
    videos: Mapping[int, Video],
    categories: Mapping[int, int],
    problems: Problems,
) -> InstanceTrack | None:
    """Return a row's track; None, and a problem, where it is none."""
    if not isinstance(row, dict):
        problems.add(where, f"expected an object, got {row!r:.40}")
        return None
    said: list[str] = []
    number, category, score = (row.get(key) for key in ("video_id", "category_id", "score"))
    video = videos.get(number) if isinstance(number, int) else None
    if video is None:
        said.append(f"video_id {number!r:.40} is none of the annotations'")
    if not isinstance(category, int) or category not in categories:
        said.append(f"category_id {category!r:.40} is none of the annotations'")
    if not isinstance(score, int | float) or not math.isfinite(score):
        said.append(f"score: expected a number, got {score!r:.40}")
    for what in said:
        problems.add(where, what)
    if said or video is None:
        return None
    with problems.at(where):
        return InstanceTrack(
            categories[row["category_id"]], float(row["score"]), _masks(row, video)
        )
    return None


def _masks(row: Mapping[str, Any], video: Video) -> tuple[Mapping[str, Any] | None, ...]:
    masks = row.get("segmentations")
    if not isinstance(masks, list):
        raise DataError(f"segmentations: expected a list, got {masks!r:.40}")
    if len(masks) != video.length:
        frames = f"video {video.id} has {video.length} frames"
        raise DataError(f"it has {len(masks)} segmentations, {frames}")
    found: list[Mapping[str, Any] | None] = []
    for frame, mask in enumerate(masks):
        try:
            found.append(to_rle(mask, video.size))
        except DataError as err:
            raise DataError(f"frame {frame}: {err}") from err
    return tuple(found)


def _with_rows(tracks: Sequence[InstanceTrack]) -> list[InstanceTrack]:
    """Return the tracks with equal masks, of several labels, as of one row of the model."""
    rows: defaultdict[tuple[str, ...], int] = defaultdict(lambda: len(rows))
    return [
        InstanceTrack(
            track.label,
            track.score,
            track.rles,
            row=rows[tuple(rle["counts"] if rle else "" for rle in track.rles)],
        )
        for track in tracks
    ]
