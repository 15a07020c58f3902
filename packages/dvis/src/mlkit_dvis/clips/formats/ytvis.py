"""YouTube-VIS JSON: videos with their frames, annotations with one mask for each frame.

Beside the published layout a video may name a video file, `"video": "clip.mp4"`, in the place of
`file_names`.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pycocotools import mask as coco_masks

from mlkit_core.errors import DataError, MlkitError
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

_KIND = "YouTube-VIS JSON"
_HINT = "`mlkit dvis import` makes one of COCO-VID, DAVIS and CVAT files"


def read_ytvis(
    path: Path,
    root: Path,
    classes: Sequence[str] | None = None,
    *,
    whole: bool = False,
    check_files: bool = True,
) -> ClipSet:
    """Return the videos of an annotation file; every problem at once.

    Args:
        path: The JSON.
        root: Folder that the frames' names start from.
        classes: Names by label; None: the file's categories in order of their ids.
        whole: Also read each mask that is text, which otherwise waits until it is used.
        check_files: False: the frames need not be there; only annotations are used.

    Raises:
        DataError: Something is missing, contradicts, or lies outside of `root`.
    """
    content = read_object(path, ("videos", "categories"), _KIND, _HINT)
    if not isinstance(content.get("annotations"), list):
        hint = "the public val and test sets hold none; keep some training videos: data.val_videos"
        raise DataError(f"{path}: it has no annotations", hint=hint)
    problems = Problems(path)
    categories = read_categories(content, classes, problems)
    rows = unique(rows_of(content, "videos", ("id", "width", "height"), problems), problems)
    instances = _instances(content, rows, categories, problems, whole=whole)
    for number, row in rows.items():
        _check_length(number, row, problems)
    videos = _videos(rows, instances, root, problems, check_files=check_files)
    categories.note_strangers(problems)
    if not content["videos"]:
        problems.add("videos", "the list is empty")
    problems.raise_any()
    return ClipSet(videos, categories.classes, root)


def _videos(
    rows: Mapping[int, Row],
    instances: Mapping[int, tuple[Instance, ...]],
    root: Path,
    problems: Problems,
    *,
    check_files: bool,
) -> tuple[Video, ...]:
    files: dict[int, list[Path]] = {}
    names: dict[int, str] = {}
    for number, row in rows.items():
        listed = [row["video"]] if "video" in row else row.get("file_names") or ()
        found = frame_files(f"video {number}", listed, root, problems, check=check_files)
        files[number], names[number] = found, frame_folder(found, root)
        if "video" in row:
            names[number] = str(PurePosixPath(str(row["video"])).with_suffix(""))
    unique_names = own_names(names)
    return tuple(
        Video(
            id=number,
            name=unique_names[number],
            size=(row["height"], row["width"]),
            length=_length(row),
            frames=() if "video" in row else tuple(files[number]),
            file=files[number][0] if "video" in row and files[number] else None,
            instances=instances.get(number, ()),
        )
        for number, row in rows.items()
    )


def _length(row: Row) -> int:
    """Return the number of frames that a video's row tells, 0 where it does not."""
    names = row.get("file_names")
    told = row.get("length") if "video" in row else len(names) if isinstance(names, list) else 0
    return told if type(told) is int else 0


def _check_length(number: int, row: Row, problems: Problems) -> None:
    where, length = f"video {number}", _length(row)
    if not length:
        field = "length" if "video" in row else "file_names"
        problems.add(where, f"it has no frames: `{field}` is missing or empty")
    elif row.get("length", length) != length:
        problems.add(where, f"its length is {row['length']!r}, but it names {length} files")
    if min(row["height"], row["width"]) < 1:
        problems.add(where, f"its size is {row['height']} x {row['width']}")


def _instances(
    content: Row,
    videos: Mapping[int, Row],
    categories: Categories,
    problems: Problems,
    *,
    whole: bool,
) -> dict[int, tuple[Instance, ...]]:
    found: dict[int, list[Instance]] = {number: [] for number in videos}
    rows = unique(rows_of(content, "annotations", ("id", "video_id"), problems), problems)
    for number, row in rows.items():
        where = f"annotation {number}"
        video = videos.get(row["video_id"])
        if video is None:
            problems.add(where, f"names video {row['video_id']}, which does not exist")
            continue
        label = categories.label(where, row.get("category_id"), problems)
        masks = _masks(where, row, video, problems, whole=whole)
        if label is not None:
            crowd = bool(row.get("iscrowd", 0))
            found[row["video_id"]].append(Instance(number, label, masks, crowd))
    return {number: tuple(instances) for number, instances in found.items()}


def _masks(
    where: str, row: Row, video: Row, problems: Problems, *, whole: bool
) -> tuple[Segmentation | None, ...]:
    """Return an instance's masks, of none of which more than the first problem is noted."""
    masks, length = row.get("segmentations"), _length(video)
    if not isinstance(masks, list):
        problems.add(
            where, "it has no list `segmentations`: masks are needed, boxes are not enough"
        )
        return ()
    if len(masks) != length:
        problems.add(where, f"it has {len(masks)} segmentations, its video {length} frames")
        return ()
    for frame, mask in enumerate(masks):
        if mask is None or mask == []:
            continue
        fault = fault_of(mask, (video["height"], video["width"]), whole=whole)
        if fault is not None:
            problems.add(f"{where}, frame {frame}", fault)
            break
    return tuple(masks)


def write_ytvis(clips: ClipSet, path: Path) -> None:
    """Write videos in the published layout, masks as compressed run lengths; whole or not at all.

    Raises:
        MlkitError: The disk does not take it.
    """
    content = {
        "info": {"description": "written by `mlkit dvis import`"},
        "categories": [{"id": n, "name": name} for n, name in enumerate(clips.classes, start=1)],
        "videos": [_video_row(number, v, clips.root) for number, v in enumerate(clips.videos, 1)],
        "annotations": [],
    }
    for number, video in enumerate(clips.videos, start=1):
        for instance in video.instances:
            row = _annotation_row(len(content["annotations"]) + 1, number, video, instance)
            content["annotations"].append(row)
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(path)
    except OSError as err:
        aside.unlink(missing_ok=True)
        raise MlkitError(f"{path}: cannot be written: {err.strerror}") from err


def _video_row(number: int, video: Video, root: Path) -> dict[str, Any]:
    row = {"id": number, "width": video.size[1], "height": video.size[0], "length": video.length}
    if video.file is not None:
        return row | {"video": video.file.relative_to(root).as_posix()}
    return row | {"file_names": [path.relative_to(root).as_posix() for path in video.frames]}


def _annotation_row(number: int, video_id: int, video: Video, instance: Instance) -> dict[str, Any]:
    rles = [video.rle(instance, frame) for frame in range(video.length)]
    return {
        "id": number,
        "video_id": video_id,
        "category_id": instance.label + 1,
        "iscrowd": int(instance.is_crowd),
        "segmentations": rles,
        "areas": [None if rle is None else int(coco_masks.area(rle)) for rle in rles],  # pyright: ignore[reportArgumentType]
        "bboxes": [None if rle is None else coco_masks.toBbox(rle).tolist() for rle in rles],  # pyright: ignore[reportArgumentType]
    }
