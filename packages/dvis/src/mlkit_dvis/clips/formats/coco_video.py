"""COCO-VID JSON: images that belong to videos, annotations of images that belong to instances.

CVAT, and tools that write plain COCO, give the same rows; without `video_id` an image belongs to
no video, and without `instance_id` (or `track_id`) an annotation to no track.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.formats.rows import (
    Categories,
    frame_files,
    frame_folder,
    own_names,
    read_categories,
    read_object,
    rows_of,
    unique,
)
from mlkit_dvis.clips.masks import fault_of
from mlkit_dvis.clips.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_dvis.clips.formats.rows import Row
    from mlkit_dvis.clips.masks import Segmentation

_LISTS = ("images", "annotations", "categories")
_IMAGE = ("id", "video_id", "width", "height")


def read_coco_video(path: Path, root: Path, classes: Sequence[str] | None = None) -> ClipSet:
    """Return the videos of a COCO-VID file; every problem at once.

    Args:
        path: The JSON.
        root: Folder that the images' names start from.
        classes: Names by label; None: the file's categories in order of their ids.

    Raises:
        DataError: Something is missing, contradicts, or lies outside of `root`.
    """
    content = read_object(path, _LISTS, "COCO-VID JSON")
    problems = Problems(path)
    categories = read_categories(content, classes, problems)
    images = unique(rows_of(content, "images", _IMAGE, problems), problems)
    videos = _ordered(images, problems)
    instances = _instances(content, images, videos, categories, problems)
    found = _videos(content, videos, instances, root, problems)
    categories.note_strangers(problems)
    if not content["images"]:
        problems.add("images", "the list is empty")
    problems.raise_any()
    return ClipSet(found, categories.classes, root)


def _ordered(images: Mapping[int, Row], problems: Problems) -> dict[int, list[Row]]:
    """Return the images of each video in order of `frame_id`, or of the file where it has none."""
    videos: dict[int, list[Row]] = {}
    for row in images.values():
        videos.setdefault(row["video_id"], []).append(row)
    for number, rows in videos.items():
        where = f"video {number}"
        order = [row.get("frame_id", place) for place, row in enumerate(rows)]
        if not all(type(frame) is int for frame in order):
            problems.add(where, "frame_id: expected whole numbers")
            continue
        if len(set(order)) < len(order):
            problems.add(where, "a frame_id comes twice")
        rows.sort(key=lambda row: row.get("frame_id", 0))
        sizes = {(row["height"], row["width"]) for row in rows}
        if len(sizes) > 1:
            problems.add(where, f"its images are of {len(sizes)} sizes: {sorted(sizes)}")
    return videos


class _Track:
    """An instance as its rows come in."""

    def __init__(self, label: int, length: int) -> None:
        self.label, self.is_crowd = label, False
        self.masks: list[Segmentation | None] = [None] * length

    def add(self, where: str, frame: int, label: int, row: Row, problems: Problems) -> None:
        """Take the mask of a frame."""
        if self.masks[frame] is not None:
            problems.add(where, f"image {row['image_id']} has this instance already")
        if label != self.label:
            problems.add(where, "its instance has another category in an earlier image")
        self.masks[frame] = row["segmentation"]
        self.is_crowd |= bool(row.get("iscrowd", 0))


def _instances(
    content: Row,
    images: Mapping[int, Row],
    videos: Mapping[int, Sequence[Row]],
    categories: Categories,
    problems: Problems,
) -> dict[int, dict[int, _Track]]:
    """Return the tracks of each video by their ids."""
    frames = {row["id"]: t for rows in videos.values() for t, row in enumerate(rows)}
    found: dict[int, dict[int, _Track]] = {number: {} for number in videos}
    rows = unique(rows_of(content, "annotations", ("id", "image_id"), problems), problems)
    for number, row in rows.items():
        where = f"annotation {number}"
        image, instance = images.get(row["image_id"]), _instance_id(row)
        if image is None:
            problems.add(where, f"names image {row['image_id']}, which does not exist")
            continue
        label = categories.label(where, row.get("category_id"), problems)
        fault = _fault(row, instance, (image["height"], image["width"]))
        if fault is not None:
            problems.add(where, fault)
        if label is None or fault is not None or instance is None:
            continue
        tracks, length = found[image["video_id"]], len(videos[image["video_id"]])
        track = tracks.setdefault(instance, _Track(label, length))
        track.add(where, frames[image["id"]], label, row, problems)
    return found


def _instance_id(row: Row) -> int | None:
    value = row.get("instance_id", row.get("track_id"))
    return value if type(value) is int else None


def _fault(row: Row, instance: int | None, size: tuple[int, int]) -> str | None:
    if instance is None:
        return "it has no whole number `instance_id` or `track_id`: frames cannot be joined"
    segmentation = row.get("segmentation")
    if segmentation is None or segmentation == []:
        return "it has a box and no mask: masks are needed" if "bbox" in row else "it has no mask"
    return fault_of(segmentation, size, whole=True)


def _videos(
    content: Row,
    images: Mapping[int, Sequence[Row]],
    tracks: Mapping[int, Mapping[int, _Track]],
    root: Path,
    problems: Problems,
) -> tuple[Video, ...]:
    listed = content.get("videos")
    rows = (row for row in listed or () if isinstance(row, dict) and type(row.get("id")) is int)
    names = {row["id"]: row.get("name") for row in rows}
    files = {
        number: frame_files(f"video {number}", [r.get("file_name") for r in rows], root, problems)
        for number, rows in images.items()
    }
    wanted = {n: str(names.get(n) or frame_folder(paths, root)) for n, paths in files.items()}
    unique_names = own_names(wanted)
    return tuple(
        Video(
            id=number,
            name=unique_names[number],
            size=(rows[0]["height"], rows[0]["width"]),
            length=len(rows),
            frames=tuple(files[number]),
            instances=tuple(
                Instance(instance, track.label, tuple(track.masks), track.is_crowd)
                for instance, track in tracks[number].items()
            ),
        )
        for number, rows in images.items()
    )
