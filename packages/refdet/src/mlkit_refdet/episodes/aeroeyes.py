"""The AeroEyes layout: one folder for each object, with its photos and its drone video.

samples/<video_id>/object_images/*.{jpg,jpeg,png}
samples/<video_id>/drone_video.mp4            or frames/%06d.{jpg,png}
annotations/annotations.json
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.frames import FrameReader
from mlkit_refdet.episodes.images import list_images
from mlkit_refdet.episodes.index import Footage, ObjectBox, ObjectClass, ReferenceIndex
from mlkit_refdet.episodes.photos import is_number, read_photos
from mlkit_refdet.episodes.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_refdet.episodes.index import Xyxy

ANNOTATIONS = "annotations/annotations.json"
_SIDES = ("x1", "y1", "x2", "y2")
_Rows = list[dict[str, Any]]


def read_aeroeyes(
    root: Path, annotations: str | None = None, *, verify: bool = False
) -> ReferenceIndex:
    """Return what a folder of this layout holds.

    Args:
        root: The folder.
        annotations: File within it; None: `annotations/annotations.json`.
        verify: Decode every video to its end, and compare its number of frames.

    Raises:
        DataError: Something is missing or wrong; everything that is, at once.
    """
    file, problems = root / (annotations or ANNOTATIONS), Problems()
    rows = _read_rows(file, problems)
    folders = sorted(p for p in _samples(root, problems) if p.is_dir() and p.name[0] != ".")
    names = {folder.name for folder in folders}
    for name in rows.keys() - names:
        problems.add(file, f"video_id {name!r}: no folder samples/{name}")
    classes, footage = list[ObjectClass](), list[Footage]()
    for folder in folders:
        if rows and folder.name not in rows:
            problems.add(folder, f"has no entry in {file.name}")
        photos = read_photos(folder / "object_images", problems)
        if not photos:
            problems.add(folder / "object_images", "holds no photo (.jpg, .jpeg, .png)")
        classes.append(ObjectClass(folder.name, photos))
        with problems.noted():
            found = _Video(folder, verify=verify)
            footage.append(found.annotated(file, rows.get(folder.name, []), problems))
    problems.raise_any(hint="every line is one thing to put right")
    return ReferenceIndex(root, tuple(classes), tuple(footage))


def _samples(root: Path, problems: Problems) -> list[Path]:
    folder = root / "samples"
    found = list(folder.iterdir()) if folder.is_dir() else []
    if not found:
        problems.add(folder, "no such folder" if not folder.is_dir() else "holds no video")
    return found


def _read_rows(file: Path, problems: Problems) -> dict[str, _Rows]:
    """Return the boxes of each video as written."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        problems.add(file, "no such file")
        return {}
    except (OSError, ValueError) as err:
        problems.add(file, f"not a readable JSON file: {err}")
        return {}
    if not isinstance(entries, list) or not entries:
        problems.add(file, "expected a list of one entry for each video")
        return {}
    rows: dict[str, _Rows] = {}
    for number, entry in enumerate(entries):
        name = entry.get("video_id") if isinstance(entry, dict) else None
        where = f"{file}: [{number}]"
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]+", name) or name[0] == ".":
            problems.add(where, f"video_id: expected a folder's name, got {name!r}")
        elif name in rows:
            problems.add(where, f"video_id {name!r}: comes twice")
        else:
            rows[name] = _intervals(f"{file}: {name}", entry.get("annotations"), problems)
    return rows


def _intervals(where: str, value: object, problems: Problems) -> _Rows:
    """Return the boxes of all visible intervals of a video."""
    if not isinstance(value, list):
        problems.add(where, f"annotations: expected a list, got {value!r:.60}")
        return []
    rows: _Rows = []
    for number, interval in enumerate(value):
        boxes = interval.get("bboxes") if isinstance(interval, dict) else None
        if not isinstance(boxes, list) or not all(isinstance(box, dict) for box in boxes):
            what = f"expected a list of boxes, got {boxes!r:.60}"
            problems.add(f"{where}: annotations[{number}]", f"bboxes: {what}")
            continue
        rows += boxes
    return rows


class _Video:
    """One object's video, or its folder of frames."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self._name = folder.name
        video, frames = folder / "drone_video.mp4", folder / "frames"
        self._files = _numbered(frames) if not video.is_file() else {}
        if not video.is_file() and not self._files:
            raise DataError(f"{folder}: holds neither drone_video.mp4 nor frames/000000.jpg")
        self._path = video if not self._files else frames
        self._reader = FrameReader(self._path, self._files)
        self._size = self._reader.size
        if verify:
            self._reader.verify()
        self._reader.close()

    def annotated(self, file: Path, rows: _Rows, problems: Problems) -> Footage:
        """Return the footage with the boxes that are right, and note those that are not."""
        boxes: defaultdict[int, dict[Xyxy, None]] = defaultdict(dict)
        for number, row in enumerate(rows):
            try:
                boxes[self._frame(row)][self._box(row)] = None
            except ValueError as err:
                problems.add(f"{file}: {self._name}: box {number}", str(err))
        objects = {f: tuple(ObjectBox(self._name, b) for b in boxes[f]) for f in sorted(boxes)}
        return Footage(
            name=self._name,
            path=self._path,
            frames=self._reader.numbers,
            size=self._size,
            boxes=objects,
            classes=(self._name,),
            files=self._files,
            fps=self._reader.fps,
        )

    def _frame(self, row: Mapping[str, Any]) -> int:
        frame = row.get("frame")
        if not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
            raise ValueError(f"frame: expected a number from 0, got {frame!r}")
        if frame >= len(self._reader):
            raise ValueError(f"frame {frame}: the video has {len(self._reader)} frames")
        if self._files and frame not in self._files:
            raise ValueError(f"frame {frame}: no file frames/{frame:06d}")
        return frame

    def _box(self, row: Mapping[str, Any]) -> Xyxy:
        sides = [row.get(side) for side in _SIDES]
        if not all(is_number(side) for side in sides):
            named = ", ".join(f"{n} {v!r}" for n, v in zip(_SIDES, sides, strict=True))
            raise ValueError(f"frame {row.get('frame')}: expected four numbers, got {named}")
        x1, y1, x2, y2 = (float(side) for side in sides)  # pyright: ignore[reportArgumentType]  # checked above
        frame, (height, width) = row.get("frame"), self._size
        for low, high, name in ((x1, x2, "x"), (y1, y2, "y")):
            if high <= low:
                what = f"{name}2 must be greater than {name}1, got {high:g} <= {low:g}"
                raise ValueError(f"frame {frame}: {what}")
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
        if x2 <= x1 or y2 <= y1:
            got = f"({', '.join(f'{s:g}' for s in sides)})"  # pyright: ignore
            raise ValueError(f"frame {frame}: box {got} lies outside of {width} x {height} pixels")
        return x1, y1, x2, y2


def _numbered(folder: Path) -> dict[int, Path]:
    """Return image files by the number that their names are."""
    files = list_images(folder)
    odd = [path.name for path in files if not path.stem.isdecimal()]
    if odd:
        raise DataError(f"{folder}: expected names as 000123.jpg, got {odd[0]!r}")
    numbered: dict[int, Path] = {}
    for path in files:
        if int(path.stem) in numbered:
            other = numbered[int(path.stem)].name
            raise DataError(f"{folder}: {path.name} and {other} are one frame")
        numbered[int(path.stem)] = path
    return numbered
