"""References out of labelled images: crops of objects, whose images are then no queries."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.coco import ANNOTATIONS
from mlkit_refdet.episodes.images import read_rgb
from mlkit_refdet.episodes.labels import LabelledImage, LabelledObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARGIN = 0.15  # of context around an object, as a share of its longer side
Crop = tuple[int, LabelledObject]  # number of the image, and the object in it


@dataclass(frozen=True)
class Imported:
    """What became of labelled images.

    Args:
        classes: Class to the crops that are its references.
        queries: Numbers of the images that are searched and show a class.
        empty: Numbers of the images that are searched and show none, or crowds alone.
        sources: Numbers of the images that references are cut from, which are not searched.
        left_out: Names with too few or too small objects.
    """

    classes: Mapping[str, tuple[Crop, ...]]
    queries: tuple[int, ...]
    empty: tuple[int, ...]
    sources: tuple[int, ...]
    left_out: tuple[str, ...]


def choose_references(
    images: Sequence[LabelledImage], *, shots: int, min_images: int, min_px: float
) -> Imported:
    """Choose each class's references: its largest objects, of images that are then not searched.

    The rarest class chooses first; images that already gave a reference come before others, so that
    few images are lost. A class of which no searched image would be left is left out. Crowds are
    neither references nor what an image is searched for.

    Args:
        images: All.
        shots: References of a class, each of another image.
        min_images: Images that a class must be in.
        min_px: Least longer side of a reference.
    """
    shown: defaultdict[str, dict[int, LabelledObject]] = defaultdict(dict)
    for number, image in enumerate(images):
        for one in sorted((o for o in image.objects if not o.crowd), key=_area):
            shown[one.name][number] = one  # the largest of each image stays
    chosen: dict[str, tuple[Crop, ...]] = {}
    sources: set[int] = set()
    for name in sorted(shown, key=lambda name: (len(shown[name]), name)):
        fit = [crop for crop in shown[name].items() if _longest(crop[1]) >= min_px]
        fit.sort(key=lambda crop: (crop[0] not in sources, -_area(crop[1]), crop[0]))
        own = tuple(fit[:shots])
        rest = shown[name].keys() - sources - {number for number, _ in own}
        if len(shown[name]) >= max(min_images, shots + 1) and len(own) == shots and rest:
            chosen[name] = own
            sources |= {number for number, _ in own}
    chosen = {n: own for n, own in sorted(chosen.items()) if shown[n].keys() - sources}
    sources = {number for own in chosen.values() for number, _ in own}
    searched = [number for number in range(len(images)) if number not in sources]
    queries = {number for name in chosen for number in shown[name]}
    return Imported(
        chosen,
        tuple(number for number in searched if number in queries),
        tuple(number for number in searched if number not in queries),
        tuple(sorted(sources)),
        tuple(sorted(shown.keys() - chosen.keys())),
    )


def _area(one: LabelledObject) -> float:
    x1, y1, x2, y2 = one.xyxy
    return (x2 - x1) * (y2 - y1)


def _longest(one: LabelledObject) -> float:
    x1, y1, x2, y2 = one.xyxy
    return max(x2 - x1, y2 - y1)


def write_set(images: Sequence[LabelledImage], found: Imported, out: Path) -> Path:
    """Write `annotations.json` and `references/<class>/`; return the folder of the images.

    Images stay where they are. A reference has its object's outline as `<name>_mask.png`, or its
    box in `boxes.json`.

    Raises:
        DataError: There is no class, the folder is not empty, or a class's name names no folder.
    """
    if not found.classes:
        hint = "lower --min-images, --shots or --min-px"
        raise DataError("import: no class has enough images", hint=hint)
    odd = [name for name in found.classes if name != Path(name).name or name[0] == "."]
    if odd:
        raise DataError(f"import: class {odd[0]!r} cannot be a folder's name")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty", hint="name a new folder")
    for name, crops in found.classes.items():
        _write_references(out / "references" / name, images, crops)
    root = Path(os.path.commonpath([image.path.resolve().parent for image in images]))
    content = json.dumps(_coco(images, found, root), ensure_ascii=False)
    (out / ANNOTATIONS).write_text(content + "\n", encoding="utf-8")
    return root


def _write_references(folder: Path, images: Sequence[LabelledImage], crops: Sequence[Crop]) -> None:
    folder.mkdir(parents=True)
    boxes: dict[str, list[float]] = {}
    for place, (number, one) in enumerate(crops, 1):
        pixels = read_rgb(images[number].path)
        x1, y1, x2, y2 = one.xyxy
        margin = _MARGIN * max(x2 - x1, y2 - y1)
        left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
        crop = pixels[top : int(np.ceil(y2 + margin)), left : int(np.ceil(x2 + margin))]
        Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{place}.png")
        mask = _outline(one, (left, top), (crop.shape[1], crop.shape[0]))
        if mask is not None:
            mask.save(folder / f"{place}_mask.png")
        else:
            boxes[f"{place}.png"] = [x1 - left, y1 - top, x2 - left, y2 - top]
    if boxes:
        (folder / "boxes.json").write_text(json.dumps(boxes) + "\n", encoding="utf-8")


def _outline(
    one: LabelledObject, origin: tuple[int, int], size: tuple[int, int]
) -> Image.Image | None:
    """Return the object's mask in a crop of `size` (width, height), None where it is not known."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for polygon in one.outline:
        draw.polygon([(x - origin[0], y - origin[1]) for x, y in polygon], fill=255)
    return mask if mask.getbbox() is not None else None


def _coco(images: Sequence[LabelledImage], found: Imported, root: Path) -> dict[str, object]:
    """Return the searched images with all objects and crowds; without photos there is no class."""
    searched = sorted((*found.queries, *found.empty))
    names = sorted({one.name for image in images for one in image.objects})
    ids = {name: number for number, name in enumerate(names, 1)}
    rows: list[dict[str, object]] = []
    for number in searched:
        for one in images[number].objects:
            x1, y1, x2, y2 = one.xyxy
            row = {"id": len(rows) + 1, "image_id": number, "category_id": ids[one.name]}
            rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(one.crowd)})
    listed = [
        {
            "id": number,
            "file_name": images[number].path.resolve().relative_to(root).as_posix(),
            "height": images[number].size[0],
            "width": images[number].size[1],
        }
        for number in searched
    ]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": listed, "annotations": rows, "categories": categories}
