"""ARCADE: COCO files with a polygon for each segment of the coronary tree.

Source: Popov et al., "Dataset for Automatic Region-based Coronary Artery Disease Diagnostics Using
X-Ray Angiography Images", Scientific Data 2024: `{syntax,stenosis}/{train,val,test}/{images,
annotations}`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.draw import polygon

from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.importing.found import Found, FoundFrame, Outline, Wish
from mlkit_angioseg.importing.pictures import file_name, split_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlkit_angioseg.frames.rows import Problems

_NO_VESSEL = "stenosis"  # a category of regions in vessels, not of vessels
_PLACES = ("*.json", "annotations/*.json", "*/annotations/*.json", "*/*/annotations/*.json")
_SUFFIXES = (".json", ".JSON")


@dataclass(frozen=True)
class _Coco:
    path: Path
    content: Mapping[str, Any]


def find_arcade(source: Path, wish: Wish, problems: Problems) -> Found:
    """Return the images of all COCO files, with their vessels' polygons."""
    files = [_Coco(path, json.loads(path.read_bytes())) for path in coco_files(source)]
    names = _class_names(files)
    found = Found(classes=names if wish.keeps_classes else (), knows_patients=False)
    headers = Headers()
    for file in files:
        outlines = _outlines(file, names, found, problems, binary=not wish.keeps_classes)
        for image in file.content["images"]:
            own = tuple(outlines.get(image.get("id"), ()))
            if not own and wish.frames != "all":
                found.leave_out("images without a vessel")
                continue
            where = f"{file.path.name}: {image.get('file_name', '?')}"
            with problems.at(where):
                found.frames.append(_frame(source, file, image, own, wish, headers))
    return found


def coco_files(source: Path) -> list[Path]:
    """Return the COCO files that a source is or holds."""
    if source.is_file():
        return [source] if source.suffix in _SUFFIXES and _is_coco(source) else []
    places = [pattern.replace(".json", suffix) for pattern in _PLACES for suffix in _SUFFIXES]
    paths = sorted({path for place in places for path in source.glob(place)})
    return [path for path in paths if _is_coco(path)]


def draw(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the label map `[H, W]` of polygons; where they overlap, the last one stands.

    A pixel is inside if its centre is: COCO counts from the corner, so that centres lie at 0.5.
    """
    labels = np.zeros(size, np.uint8)
    for outline in outlines:
        for ring in outline.rings:
            columns, rows = np.asarray(ring, float).T - 0.5
            labels[polygon(rows, columns, size)] = outline.label
    return labels


def _is_coco(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    wanted = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in wanted)


def _class_names(files: Sequence[_Coco]) -> tuple[str, ...]:
    """Return the names of vessel categories that occur, in the order of their ids."""
    names: dict[int, str] = {}
    for file in files:
        used = {row.get("category_id") for row in file.content["annotations"]}
        for category in file.content["categories"]:
            if category.get("id") in used and category.get("name") != _NO_VESSEL:
                names.setdefault(category["id"], str(category.get("name")))
    return tuple(dict.fromkeys(names[number] for number in sorted(names)))


def _outlines(
    file: _Coco, names: tuple[str, ...], found: Found, problems: Problems, *, binary: bool
) -> dict[object, list[Outline]]:
    """Return an image's id to its polygons."""
    categories = {c.get("id"): str(c.get("name")) for c in file.content["categories"]}
    known = {image.get("id") for image in file.content["images"]}
    by_image: defaultdict[object, list[Outline]] = defaultdict(list)
    for row in file.content["annotations"]:
        where = f"{file.path.name}: annotation {row.get('id', '?')}"
        name = categories.get(row.get("category_id"))
        if name == _NO_VESSEL:
            found.leave_out("stenoses, which are no vessels")
            continue
        with problems.at(where):
            if name is None or row.get("image_id") not in known:
                raise ValueError("names a category or an image that is not there")
            label = 1 if binary else names.index(name) + 1
            by_image[row["image_id"]].append(Outline(label, _rings(row.get("segmentation"))))
    return by_image


def _rings(segmentation: object) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return the rings of COCO's `[[x, y, x, y, …], …]`.

    Raises:
        ValueError: It is run lengths, or no ring of three or more points.
    """
    if not isinstance(segmentation, list) or not segmentation:
        kind = "run lengths" if isinstance(segmentation, dict) else repr(segmentation)
        raise ValueError(f"segmentation: expected polygons, got {kind}")
    rings = []
    for ring in segmentation:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            raise ValueError("segmentation: a polygon has an even number of 6 or more values")
        values = [float(value) for value in ring]
        rings.append(tuple(zip(values[::2], values[1::2], strict=True)))
    return tuple(rings)


def _frame(
    source: Path,
    file: _Coco,
    image: Mapping[str, Any],
    outlines: tuple[Outline, ...],
    wish: Wish,
    headers: Headers,
) -> FoundFrame:
    name = str(image.get("file_name", ""))
    path = _image_path(file.path, name, wish.images)
    header = headers.image(path)
    size = (header.height, header.width)
    if (image.get("height", size[0]), image.get("width", size[1])) != size:
        raise ValueError(
            f"is {size[1]}x{size[0]}, the file says {image.get('width')}x{image.get('height')}"
        )
    folder = file.path.parent
    folder = folder.parent if folder.name == "annotations" else folder
    # The same file names come again in every split and task.
    above = folder.relative_to(source).parts if folder.is_relative_to(source) else ()
    key = file_name("/".join([*above, Path(name).stem]))
    return FoundFrame(
        where=f"{file.path.name}: {name}",
        name=key,
        image=path,
        frame=None,
        size=size,
        outlines=outlines,
        patient=key,
        cine=key,
        split=split_of((*folder.parts[-1:], file.path.stem)),
    )


def _image_path(coco: Path, name: str, images: Path | None) -> Path:
    """Return where an image lies.

    Raises:
        ValueError: The name leads out of the folder of images.
    """
    if images is None:
        beside = [coco.parent.parent / "images", coco.parent / "images", coco.parent]
        images = next((folder for folder in beside if (folder / name).is_file()), beside[0])
    if not (images / name).resolve().is_relative_to(images.resolve()):
        raise ValueError(f"file_name {name!r} leads out of {str(images)!r}")
    return images / name
