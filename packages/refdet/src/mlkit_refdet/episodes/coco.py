"""A COCO JSON with images, and reference photos by category.

annotations.json
images/<file_name>
references/<category>/*.{png,jpg}        alpha: the object's mask
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.images import image_size
from mlkit_refdet.episodes.index import Footage, ObjectBox, ObjectClass, ReferenceIndex
from mlkit_refdet.episodes.photos import is_number, read_photos
from mlkit_refdet.episodes.problems import Problems

LOG = logging.getLogger("mlkit.refdet")

ANNOTATIONS = "annotations.json"
_LISTS = ("images", "annotations", "categories")
_Row = dict[str, Any]


def read_coco(
    root: Path,
    annotations: str | None = None,
    images: str = "images",
    references: str = "references",
) -> ReferenceIndex:
    """Return what a COCO JSON and its folders hold; classes are the categories with photos.

    Args:
        root: The folder.
        annotations: File within it; None: `annotations.json`.
        images: Folder of images, within it.
        references: Folder of photos by category, within it.

    Raises:
        DataError: Something is missing or wrong; everything that is, at once.
    """
    file, problems = root / (annotations or ANNOTATIONS), Problems()
    content = read_json(file)
    names = unique_names(file, content, "categories", "name", problems)
    classes = _read_classes(root / references, set(names.values()), problems)
    known = {one.name for one in classes}
    rest = sorted(set(names.values()) - known)
    if rest and known:
        LOG.info("%s: %d categories have no photos and are no classes", root, len(rest))
    listed = _Listed(file, root / images, content, problems)
    footage = listed.footage(names, known, problems)
    problems.raise_any(hint="every line is one thing to put right")
    return ReferenceIndex(root, classes, (footage,))


def read_json(file: Path) -> dict[str, list[_Row]]:
    """Return the lists of a COCO JSON.

    Raises:
        DataError: It cannot be read, or lacks one of them.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        raise DataError(f"{file}: no such file") from err
    except (OSError, ValueError) as err:
        raise DataError(f"{file}: not a readable JSON file: {err}") from err
    lacks = [k for k in _LISTS if not isinstance(value, dict) or not isinstance(value.get(k), list)]
    if lacks:
        raise DataError(f"{file}: lacks the lists {', '.join(lacks)}")
    odd = [k for k in _LISTS if not all(isinstance(row, dict) for row in value[k])]
    if odd:
        raise DataError(f"{file}: {odd[0]}: expected a list of objects")
    return {key: value[key] for key in _LISTS}


def unique_names(
    file: Path, content: dict[str, list[_Row]], kind: str, field: str, problems: Problems
) -> dict[Any, str]:
    """Return id to name, or note what has none or one that another has."""
    names: dict[Any, str] = {}
    for number, row in enumerate(content[kind]):
        where, key, name = f"{file}: {kind}[{number}]", row.get("id"), row.get(field)
        if not isinstance(key, (int, str)) or not isinstance(name, str) or not name:
            problems.add(where, f"expected id and {field}, got {key!r} and {name!r}")
        elif key in names:
            problems.add(where, f"id {key!r}: comes twice")
        elif name in names.values() and kind == "categories":
            problems.add(where, f"{field} {name!r}: comes twice")
        else:
            names[key] = name
    return names


def _read_classes(folder: Path, names: set[str], problems: Problems) -> tuple[ObjectClass, ...]:
    if not folder.is_dir():
        problems.add(folder, "no such folder: photos lie in <category>/*.{png,jpg}")
        return ()
    classes: list[ObjectClass] = []
    for own in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        if own.name not in names:
            problems.add(own, f"no category is named {own.name!r}")
            continue
        photos = read_photos(own, problems)
        if not photos:
            problems.add(own, "holds no photo (.jpg, .jpeg, .png)")
        classes.append(ObjectClass(own.name, photos))
    if not classes:
        problems.add(folder, "holds photos of no category")
    return tuple(classes)


class _Listed:
    """The images that the file lists, numbered in its order."""

    def __init__(
        self, file: Path, folder: Path, content: dict[str, list[_Row]], problems: Problems
    ) -> None:
        self._file, self._folder, self._rows = file, folder, content["annotations"]
        names = unique_names(file, content, "images", "file_name", problems)
        self._numbers = {key: number for number, key in enumerate(names)}
        self._files: dict[int, Path] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        stated = {row.get("id"): row for row in content["images"]}
        for key, number in self._numbers.items():
            with problems.noted():
                path = self._path(names[key])
                self._files[number] = path
                self._sizes[number] = stated_size(stated[key]) or image_size(path)
                if not path.is_file():
                    raise DataError(f"{path}: no such file")

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise DataError(f"{self._file}: file_name {name!r}: leaves the folder of images")
        return self._folder / parts

    def footage(self, names: dict[Any, str], known: set[str], problems: Problems) -> Footage:
        """Return the set of images with the boxes of known classes; crowds are left out."""
        boxes: defaultdict[int, list[ObjectBox]] = defaultdict(list)
        unlisted: defaultdict[int, int] = defaultdict(int)
        for place, row in enumerate(self._rows):
            where = f"{self._file}: annotations[{place}]"
            number, name = self._numbers.get(row.get("image_id")), names.get(row.get("category_id"))
            if number is None:
                problems.add(where, f"no image has id {row.get('image_id')!r}")
            elif name is None:
                problems.add(where, f"no category has id {row.get('category_id')!r}")
            elif name not in known or row.get("iscrowd"):
                unlisted[number] += 1
            else:
                try:
                    size = self._sizes.get(number)
                    boxes[number].append(ObjectBox(name, corners(row.get("bbox"), size)))
                except ValueError as err:
                    problems.add(where, str(err))
        return Footage(
            name="images",
            path=self._folder,
            frames=range(len(self._numbers)),
            size=next(iter(self._sizes.values()), (1, 1)),
            boxes={number: tuple(boxes[number]) for number in sorted(boxes)},
            files=self._files,
            sizes=self._sizes,
            unlisted=dict(unlisted),
            is_video=False,
        )


def stated_size(row: _Row) -> tuple[int, int] | None:
    """Return an image's height and width as its row says, None where it does not."""
    sides = row.get("height"), row.get("width")
    whole = all(isinstance(side, int) and side > 0 for side in sides)
    return sides if whole else None  # pyright: ignore[reportReturnType]  # checked


def corners(bbox: object, size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """Return COCO's x, y, width, height as corners, clipped to the image.

    Raises:
        ValueError: They are no box, or lie outside.
    """
    values = bbox if isinstance(bbox, list) else []
    if len(values) != 4 or not all(is_number(value) for value in values):
        raise ValueError(f"bbox: expected four numbers, got {bbox!r}")
    x, y, width, height = (float(value) for value in values)
    if width <= 0 or height <= 0:
        raise ValueError(f"bbox: width and height must be positive, got {width:g} and {height:g}")
    bottom, right = size or (float("inf"), float("inf"))
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, right), min(y + height, bottom)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"bbox: {bbox!r} lies outside of {right:g} x {bottom:g} pixels")
    return x1, y1, x2, y2
