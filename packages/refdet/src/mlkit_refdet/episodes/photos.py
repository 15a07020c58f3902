"""Reference photos in a folder, with what is known of their foreground."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mlkit_refdet.episodes.images import image_size, list_images
from mlkit_refdet.episodes.index import Photo

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_refdet.episodes.index import Size, Xyxy
    from mlkit_refdet.episodes.problems import Problems

_PHOTOS = frozenset({".jpg", ".jpeg", ".png"})
_MASK = "_mask"
_BOXES = "boxes.json"


def read_photos(folder: Path, problems: Problems) -> tuple[Photo, ...]:
    """Return a folder's photos in natural order.

    A photo's foreground is its alpha channel, else `<name>_mask.png` beside it, else its box in
    the folder's `boxes.json` (`{"img_1.jpg": [x1, y1, x2, y2]}`, pixels), else unknown.
    """
    files = [path for path in list_images(folder) if path.suffix.lower() in _PHOTOS]
    masks = {path.stem.removesuffix(_MASK): path for path in files if _is_mask(path, files)}
    boxes = _read_boxes(folder / _BOXES, problems)
    photos: list[Photo] = []
    for path in files:
        if path in masks.values():
            continue
        with problems.noted():
            size = image_size(path)
            mask, box = masks.get(path.stem), boxes.pop(path.name, None)
            if mask is not None and image_size(mask) != size:
                problems.add(mask, f"expected the size of {path.name}, {_by(size)}")
            photos.append(Photo(path, mask, _checked(folder / _BOXES, path, box, size, problems)))
    for name in boxes:
        problems.add(folder / _BOXES, f"names {name!r}, which is no photo there")
    return tuple(photos)


def _is_mask(path: Path, files: list[Path]) -> bool:
    stem = path.stem
    return stem.endswith(_MASK) and any(f.stem == stem.removesuffix(_MASK) for f in files)


def _read_boxes(file: Path, problems: Problems) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        problems.add(file, f"not a readable JSON file: {err}")
        return {}
    if not isinstance(value, dict):
        problems.add(file, "expected a mapping of photo to box")
        return {}
    return value


def _checked(file: Path, photo: Path, box: object, size: Size, problems: Problems) -> Xyxy | None:
    if box is None:
        return None
    values = tuple(box) if isinstance(box, list) else ()
    numbers = [float(v) for v in values if is_number(v)]
    if len(values) != 4 or len(numbers) != 4:
        problems.add(file, f"{photo.name}: expected [x1, y1, x2, y2], got {box!r}")
        return None
    x1, y1, x2, y2 = numbers
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, size[1]), min(y2, size[0])
    if x2 <= x1 or y2 <= y1:
        problems.add(file, f"{photo.name}: box {box!r} is empty in a photo of {_by(size)}")
        return None
    return x1, y1, x2, y2


def is_number(value: object) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _by(size: Size) -> str:
    return f"{size[1]} x {size[0]}"
