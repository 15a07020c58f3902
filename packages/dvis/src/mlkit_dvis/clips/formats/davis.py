"""A folder of frames and one of masks, as DAVIS and YouTube-VOS have them: `masks/<video>/*.png`.

A mask's values are instances, 0 is background. Names of classes come from a file of their own.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mlkit_core.errors import DataError
from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.masks import encode
from mlkit_dvis.clips.problems import Problems
from mlkit_dvis.video.images import image_size, list_images

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_dvis.results import Rle

# Where the two lie within a set's folder, by who writes it.
_LAYOUTS = (
    ("frames", "masks"),
    ("JPEGImages/480p", "Annotations/480p"),
    ("JPEGImages", "Annotations"),
)
_INDEXED = frozenset({"P", "L", "1", "I", "I;16"})  # modes in which a pixel is one number
_OBJECT = "object"

ClassMap = dict[tuple[str, int | None], str]  # of (video, instance), or of all of a video


def davis_folders(source: Path) -> tuple[Path, Path] | None:
    """Return the folders of frames and of masks, None where the source holds no such two."""
    for frames, masks in _LAYOUTS:
        if (source / frames).is_dir() and (source / masks).is_dir():
            return source / frames, source / masks
    return None


def read_davis(source: Path, class_file: Path | None = None) -> ClipSet:
    """Return the videos of a folder of frames and masks; every problem at once.

    Args:
        source: Holds `frames/<video>/` and `masks/<video>/`.
        class_file: JSON or CSV, see `read_class_map`; None: all instances are of class "object".

    Raises:
        DataError: Folders or files are missing, masks are no numbers or of another size.
    """
    folders = davis_folders(source)
    if folders is None:
        raise DataError(f"{source}: it has no folders `frames` and `masks`")
    frames, masks = folders
    names = read_class_map(class_file) if class_file is not None else None
    problems = Problems(source)
    found: list[Video] = []
    labels = _Labels(names)
    folders = sorted(path for path in frames.iterdir() if path.is_dir())
    for folder in folders:
        with problems.at(f"video {folder.name}"):
            found.append(_video(len(found) + 1, folder, masks / folder.name, labels))
    alone = {path.name for path in masks.iterdir() if path.is_dir()} - {f.name for f in folders}
    for name in sorted(alone):
        problems.add(f"video {name}", f"its masks have no frames {frames / name}")
    if not folders:
        problems.add(frames.name, "holds no folder of frames")
    labels.note_unused(problems)
    problems.raise_any()
    return ClipSet(tuple(found), labels.classes, frames)


class _Labels:
    """Names of instances, and the labels that they become: in the class file's order."""

    def __init__(self, names: ClassMap | None) -> None:
        self._names = names
        self._used: set[tuple[str, int | None]] = set()
        self.classes = (_OBJECT,) if names is None else tuple(dict.fromkeys(names.values()))

    def of(self, video: str, instance: int) -> int:
        """Return an instance's label."""
        if self._names is None:
            return 0
        for key in ((video, instance), (video, None)):
            if key in self._names:
                self._used.add(key)
                return self.classes.index(self._names[key])
        raise DataError(f"the class file names no class of instance {instance}")

    def note_unused(self, problems: Problems) -> None:
        """Note entries of the class file that no mask shows."""
        for video, instance in self._names or {}:
            if (video, instance) in self._used:
                continue
            which = "the video" if instance is None else f"instance {instance}"
            problems.add(f"class of {video}", f"no mask shows {which}")


def _video(number: int, folder: Path, masks: Path, labels: _Labels) -> Video:
    frames = list_images(folder)
    size = image_size(frames[0])
    rles: dict[int, list[Rle | None]] = {}
    for t, frame in enumerate(frames):
        if image_size(frame) != size:
            raise DataError(f"{frame.name} is of another size than {frames[0].name}")
        ids = _read_ids(masks / f"{frame.stem}.png", size)
        for instance in np.unique(ids[ids > 0]).tolist():
            track = rles.setdefault(instance, [None] * len(frames))
            track[t] = encode(ids == instance)
    strays = {path.stem for path in masks.glob("*.png")} - {path.stem for path in frames}
    if strays:
        raise DataError(f"mask {min(strays)}.png has no frame ({len(strays)} such masks)")
    instances = tuple(
        Instance(instance, labels.of(folder.name, instance), tuple(rles[instance]))
        for instance in sorted(rles)
    )
    return Video(number, folder.name, size, len(frames), tuple(frames), instances=instances)


def _read_ids(path: Path, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the instance of each pixel, `[H, W]`, 0 where there is none."""
    try:
        with Image.open(path) as image:
            if image.mode not in _INDEXED:
                raise DataError(
                    f"mask {path.name} is a picture of mode {image.mode}: expected a palette or "
                    "grey, one number for each pixel"
                )
            ids = np.asarray(image).astype(np.int64)
    except FileNotFoundError as err:
        raise DataError(f"frame {path.stem} has no mask {path}") from err
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as err:
        raise DataError(f"mask {path.name} is not a readable image: {err}") from err
    if ids.shape != size:
        got, want = (f"{height} x {width}" for height, width in (ids.shape, size))
        raise DataError(f"mask {path.name} is {got}, its frame {want} (height x width)")
    return ids


def read_class_map(path: Path) -> ClassMap:
    """Return class names by video and instance.

    JSON: `{"dog": "animal", "traffic": {"1": "car", "2": "person"}}`. CSV with a header: `video`,
    `id` (empty for all of a video) and `class`.

    Raises:
        DataError: The file cannot be read as either.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(json.loads(text))
        return {
            (video, None if number == "" else int(number)): name for video, number, name in rows
        }
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as err:
        hint = 'JSON {"video": "class"} or {"video": {"1": "class"}}, or CSV video,id,class'
        raise DataError(f"{path}: not a file of class names: {err}", hint=hint) from err


def _csv_rows(text: str) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(text.splitlines())
    return [(row["video"], row.get("id") or "", row["class"]) for row in rows]


def _json_rows(content: object) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for video, named in _object(content).items():
        if isinstance(named, str):
            rows.append((video, "", named))
        else:
            rows += [(video, number, str(name)) for number, name in _object(named).items()]
    return rows


def _object(content: object) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise TypeError(f"expected an object, got {content!r:.40}")
    return content
