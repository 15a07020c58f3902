"""The images and labels of an `image-folder`, laid out as ultralytics trains on them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_core.build import build_data
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_cluster.images.annotations import Annotations
    from mlkit_cluster.images.component import ImageFolder
    from mlkit_cluster.images.listing import ImageEntry
    from mlkit_core.config.frame import Part


def write_yolo_dataset(part: Part, folder: Path) -> Path:
    """Write a data set of links to the images and of text files with their labels.

    Nothing is written beside the images themselves, as ultralytics alone would do. Objects that
    all have polygons are written as polygons, else as boxes.

    Args:
        part: Of an `image-folder` with splits train and val, and labels of any form.
        folder: Made anew.

    Returns:
        The YAML that ultralytics reads.

    Raises:
        DataError: There are no labels, or a split is missing.
    """
    data: ImageFolder = build_data(part)  # pyright: ignore[reportAssignmentType]  # by its name
    if data.label_source() is None:
        raise DataError(f"{data.options.source}: no labels to train on")
    entries = data.listing().images
    for split in ("train", "val"):
        if not any(entry.split == split for entry in entries):
            raise DataError(
                f"{data.options.source}: no images of split {split!r}",
                hint="give a data set's YAML with `train`, `val` and `names`",
            )
    shutil.rmtree(folder, ignore_errors=True)
    for number, entry in enumerate(entries):
        if entry.split in ("train", "val"):
            _write(data, entry, folder, f"{number:07d}")
    path = folder / "data.yaml"
    names = dict(enumerate(data.classes))
    said = {"path": str(folder.absolute()), "train": "images/train", "val": "images/val"}
    path.write_text(json.dumps({**said, "names": names}, indent=1) + "\n", encoding="utf-8")
    return path


def _write(data: ImageFolder, entry: ImageEntry, folder: Path, stem: str) -> None:
    source = data.label_source()
    try:
        with Image.open(entry.path) as image:
            size = image.height, image.width
    except OSError as err:
        raise DataError(f"{entry.path}: not a readable image: {err}") from err
    found = source.of(entry, size) if source is not None else None
    if found is None:
        return  # of an image of which nothing is known nothing can be learnt
    shown = folder / "images" / entry.split / f"{stem}{entry.path.suffix.lower()}"
    told = folder / "labels" / entry.split / f"{stem}.txt"
    for path in (shown, told):
        path.parent.mkdir(parents=True, exist_ok=True)
    shown.symlink_to(entry.path.resolve())
    told.write_text("".join(f"{line}\n" for line in _lines(found, size)), encoding="utf-8")


def _lines(found: Annotations, size: tuple[int, int]) -> list[str]:
    scale = np.array([size[1], size[0]], np.float64)
    polygons = [
        outline[0] if isinstance(outline, tuple) and len(outline) == 1 else None
        for outline in found.outlines or ()
    ]
    whole = bool(polygons) and all(polygon is not None for polygon in polygons)
    lines: list[str] = []
    for place, label in enumerate(found.labels):
        polygon = polygons[place] if whole else None
        if polygon is None:
            low, high = found.boxes[place, :2] / scale, found.boxes[place, 2:] / scale
            values = np.concatenate([(low + high) / 2, high - low]).clip(0, 1)
        else:
            values = (np.asarray(polygon) / scale).clip(0, 1).ravel()
        lines.append(" ".join([str(int(label)), *(f"{value:.6f}" for value in values)]))
    return lines
