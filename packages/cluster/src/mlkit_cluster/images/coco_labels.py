"""COCO's JSON: one file for all images, with boxes, polygons and run lengths."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.images.annotations import Annotations
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_cluster.images.annotations import Outline
    from mlkit_cluster.images.listing import ImageEntry, Listing

_log = logging.getLogger("mlkit.cluster")


class CocoLabels:
    """Every object of every image, crowds excepted; categories count from 0 in order of their ids.

    An image is found by the path that the file gives it, else by its file name where that is
    unique. An image that the file lists without objects is known to have none; one that it does
    not list is unknown.

    Args:
        file: The JSON.
        listing: The images.

    Raises:
        DataError: The file is no COCO JSON, or lists none of the images.
    """

    kind = "coco"

    def __init__(self, file: Path, listing: Listing) -> None:
        self._file = file
        value = _read(file)
        categories = sorted(value["categories"], key=lambda one: one["id"])
        self.names = tuple(str(one["name"]) for one in categories)
        self._labels = {one["id"]: index for index, one in enumerate(categories)}
        self._objects: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for one in value["annotations"]:
            self._objects[one["image_id"]].append(one)
        self._ids = _matched(file, value["images"], listing)
        self.labelled = len(self._ids)
        _log.info("%s: labels of %d of %d images", file, self.labelled, len(listing.images))

    def of(self, entry: ImageEntry, size: tuple[int, int]) -> Annotations | None:
        """Return an image's labels.

        Raises:
            DataError: An annotation is malformed, or its image has another size.
        """
        found = self._ids.get(entry.key)
        if found is None:
            return None
        image_id, stated = found
        if stated is not None and stated != size:
            raise DataError(
                f"{entry.path}: {self._file} says {stated[1]} x {stated[0]} pixels, "
                f"got {size[1]} x {size[0]}"
            )
        objects = [one for one in self._objects[image_id] if not one.get("iscrowd")]
        boxes, labels, outlines = [], [], []
        for one in objects:
            where = f"{self._file}: annotation {one.get('id')}"
            box, label = self._box(one, where)
            boxes.append(box)
            labels.append(label)
            outlines.append(_outline(one.get("segmentation"), size, where))
        drawn = tuple(outline for outline in outlines if outline is not None)
        return Annotations(
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            labels=np.array(labels, np.int32),
            outlines=drawn if len(drawn) == len(objects) else None,
        )

    def _box(self, one: Mapping[str, Any], where: str) -> tuple[list[float], int]:
        try:
            x, y, width, height = (float(side) for side in one["bbox"])
            label = self._labels[one["category_id"]]
        except (KeyError, TypeError, ValueError) as err:
            raise DataError(f"{where}: no legal bbox and category_id: {err!r}") from err
        if not np.isfinite([x, y, width, height]).all():
            raise DataError(f"{where}: bbox: expected numbers, got {one['bbox']}")
        return [x, y, x + width, y + height], label


def _read(file: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as err:
        raise DataError(f"{file}: not a readable JSON file: {err}") from err
    lists = ("images", "annotations", "categories")
    if not isinstance(value, dict) or not all(isinstance(value.get(k), list) for k in lists):
        raise DataError(f"{file}: expected COCO's lists {', '.join(lists)}")
    try:
        for key, fields in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
            _ = [one[field] for one in value[key] for field in fields]
        _ = [one["image_id"] for one in value["annotations"]]
    except (KeyError, TypeError) as err:
        raise DataError(f"{file}: an entry lacks {err}") from err
    return value


def _matched(
    file: Path, images: list[Mapping[str, Any]], listing: Listing
) -> dict[str, tuple[int, tuple[int, int] | None]]:
    """Return by key the image's id in the file and its stated size (height, width)."""
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in images:
        by_name[PurePosixPath(str(one["file_name"])).name].append(one)
    found: dict[str, tuple[int, tuple[int, int] | None]] = {}
    for entry in listing.images:
        named = by_name.get(entry.path.name, [])
        ends = [
            one for one in named if f"/{entry.path.as_posix()}".endswith(f"/{one['file_name']}")
        ]
        chosen = ends or (named if len(named) == 1 else [])
        if not chosen:
            continue
        one = max(chosen, key=lambda image: len(str(image["file_name"])))
        stated = (one.get("height"), one.get("width"))
        whole = all(isinstance(side, int) for side in stated)
        found[entry.key] = (one["id"], stated if whole else None)  # pyright: ignore[reportArgumentType]
    if not found:
        raise DataError(f"{file}: lists none of the {len(listing.images)} images under their names")
    return found


def _outline(value: Any, size: tuple[int, int], where: str) -> Outline | None:  # noqa: ANN401  # of JSON
    """Return polygons, or the mask of run lengths (compressed or not); None where there is none."""
    if not value:
        return None
    try:
        if isinstance(value, list):
            return tuple(np.array(part, np.float64).reshape(-1, 2) for part in value)
        height, width = (int(side) for side in value["size"])
        counts = value["counts"]
        runs = decompress_runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        if runs.min() < 0 or runs.sum() != height * width:
            raise ValueError("runs do not fill the mask")
        drawn = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise DataError(f"{where}: segmentation is neither polygons nor run lengths") from err
    if drawn.shape != size:
        raise DataError(f"{where}: segmentation is of {drawn.shape}, the image of {size}")
    return drawn


def decompress_runs(text: str) -> np.ndarray:
    """Return the run lengths, int64, of COCO's compressed form.

    A number is a row of characters of six bits above code 48: five of its value, lowest first, and
    one that says whether more follow; the value's sign is its highest bit. From the fourth run on,
    the difference to the run before the last is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.int64)
