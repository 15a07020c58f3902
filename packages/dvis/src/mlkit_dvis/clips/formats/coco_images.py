"""COCO instance annotations: images that training takes for videos of one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.formats.rows import inside, read_object, rows_of, unique
from mlkit_dvis.clips.masks import fault_of
from mlkit_dvis.clips.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_dvis.clips.formats.rows import Row

_LISTS = ("images", "annotations", "categories")


def read_coco_images(path: Path, root: Path, classes: Sequence[str]) -> ClipSet:
    """Return the images that show an instance of a known class, each as a video of one frame.

    Categories are known by name; instances of others, and images of which none is left, are left
    out, and so are crowds.

    Args:
        path: COCO instance annotations.
        root: Folder that the images' names start from.
        classes: Names by label.

    Raises:
        DataError: The file is wrong, an image is missing, or no image is left.
    """
    content = read_object(path, _LISTS, "COCO JSON")
    problems = Problems(path)
    images = unique(rows_of(content, "images", ("id", "width", "height"), problems), problems)
    instances = _instances(content, images, _labels(content, classes, problems), problems)
    found: list[Video] = []
    for number in (number for number in images if instances[number]):
        with problems.at(f"image {number}"):
            found.append(_video(number, images[number], root, instances[number], problems))
    if not found:
        problems.add("annotations", f"no instance is of a known class: {', '.join(classes)}")
    problems.raise_any()
    return ClipSet(tuple(found), tuple(classes), root)


def _labels(content: Row, classes: Sequence[str], problems: Problems) -> dict[int, int | None]:
    """Return labels by category id, None where the class is not known."""
    rows = unique(rows_of(content, "categories", ("id",), problems), problems)
    places = {name: label for label, name in enumerate(classes)}
    return {number: places.get(str(row.get("name"))) for number, row in rows.items()}


def _instances(
    content: Row, images: Mapping[int, Row], labels: Mapping[int, int | None], problems: Problems
) -> dict[int, list[Instance]]:
    found: dict[int, list[Instance]] = {number: [] for number in images}
    for where, row in rows_of(content, "annotations", ("id", "image_id", "category_id"), problems):
        image = images.get(row["image_id"])
        if image is None:
            problems.add(where, f"names image {row['image_id']}, which does not exist")
        elif row["category_id"] not in labels:
            problems.add(where, f"names category {row['category_id']}, which does not exist")
        elif (label := labels[row["category_id"]]) is not None and not row.get("iscrowd"):
            fault = fault_of(row.get("segmentation"), (image["height"], image["width"]))
            if fault is not None:
                problems.add(where, fault)
            elif row["segmentation"]:
                instance = Instance(row["id"], label, (row["segmentation"],))
                found[row["image_id"]].append(instance)
    return found


def _video(
    number: int, row: Row, root: Path, instances: Sequence[Instance], problems: Problems
) -> Video:
    file = inside(root, row.get("file_name"))
    if not file.is_file():
        problems.add(f"image {number}", f"no file {file}")
    return Video(
        id=number,
        name=str(row["file_name"]),
        size=(row["height"], row["width"]),
        length=1,
        frames=(file,),
        instances=tuple(instances),
    )
