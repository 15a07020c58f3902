"""Labelled images of other tools: COCO's JSON, or YOLO's text files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlkit_core.errors import DataError
from mlkit_refdet.episodes import coco
from mlkit_refdet.episodes.images import image_size, is_image
from mlkit_refdet.episodes.photos import is_number
from mlkit_refdet.episodes.problems import Problems

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_refdet.episodes.index import Size, Xyxy

Polygon = tuple[tuple[float, float], ...]
_SPLITS = ("train", "val", "test")
_SLACK = 0.01  # rounding of whoever wrote YOLO labels


@dataclass(frozen=True)
class LabelledObject:
    """An object, or a crowd of them.

    Args:
        name: Its class.
        xyxy: Its box, pixels.
        outline: Polygons, where they are known.
        crowd: It stands for several objects that are not told apart.
    """

    name: str
    xyxy: Xyxy
    outline: tuple[Polygon, ...] = ()
    crowd: bool = False


@dataclass(frozen=True)
class LabelledImage:
    """An image file and all that is labelled in it."""

    path: Path
    size: Size
    objects: tuple[LabelledObject, ...]


def read_labels(
    source: Path, kind: Literal["auto", "coco", "yolo"] = "auto", images: Path | None = None
) -> list[LabelledImage]:
    """Return the labelled images of a source.

    Args:
        source: COCO's JSON; or of YOLO a data set's YAML.
        kind: What it is; "auto" goes by its suffix.
        images: Of COCO: folder that file names start from; None: `images` beside the JSON, else
            its own folder.

    Raises:
        DataError: Something is missing or wrong; everything that is, at once.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file", hint="name COCO's JSON or YOLO's data.yaml")
    if kind == "auto":
        kinds: dict[str, Literal["coco", "yolo"]] = {
            ".json": "coco",
            ".yaml": "yolo",
            ".yml": "yolo",
        }
        if source.suffix.lower() not in kinds:
            raise DataError(f"{source}: expected .json (COCO) or .yaml (YOLO)")
        kind = kinds[source.suffix.lower()]
    problems = Problems()
    found = list(
        _of_coco(source, images, problems) if kind == "coco" else _of_yolo(source, problems)
    )
    problems.raise_any()
    if not found:
        raise DataError(f"{source}: lists no images")
    return found


def _of_coco(file: Path, images: Path | None, problems: Problems) -> Iterator[LabelledImage]:
    content = coco.read_json(file)
    names = coco.unique_names(file, content, "categories", "name", problems)
    files = coco.unique_names(file, content, "images", "file_name", problems)
    stated = {row.get("id"): row for row in content["images"]}
    rows: defaultdict[object, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, row in enumerate(content["annotations"]):
        rows[row.get("image_id")].append((number, row))
    for key in rows.keys() - files.keys():
        problems.add(f"{file}: annotations[{rows[key][0][0]}]", f"no image has id {key!r}")
    inner = file.parent / "images"
    folder = images or (inner if inner.is_dir() else file.parent)
    for key, name in files.items():
        with problems.noted():
            path = folder / name
            size = coco.stated_size(stated[key]) or image_size(path)
            if not path.is_file():
                raise DataError(f"{path}: no such file")
            objects = _coco_objects(file, rows[key], names, size, problems)
            yield LabelledImage(path, size, tuple(objects))


def _coco_objects(
    file: Path,
    rows: list[tuple[int, Mapping[str, Any]]],
    names: Mapping[Any, str],
    size: Size,
    problems: Problems,
) -> Iterator[LabelledObject]:
    for number, row in rows:
        where, name = f"{file}: annotations[{number}]", names.get(row.get("category_id"))
        if name is None:
            problems.add(where, f"no category has id {row.get('category_id')!r}")
            continue
        try:
            xyxy = coco.corners(row.get("bbox"), size)
        except ValueError as err:
            problems.add(where, str(err))
            continue
        outline = _polygons(row.get("segmentation"))
        yield LabelledObject(name, xyxy, outline, crowd=bool(row.get("iscrowd")))


def _polygons(value: object) -> tuple[Polygon, ...]:
    """Return COCO's polygons; none of run lengths, and none that is malformed."""
    parts = value if isinstance(value, list) else []
    whole = [
        part
        for part in parts
        if isinstance(part, list) and len(part) >= 6 and all(is_number(v) for v in part)
    ]
    return tuple(tuple(zip(part[::2], part[1::2], strict=False)) for part in whole)


def _of_yolo(file: Path, problems: Problems) -> Iterator[LabelledImage]:
    value = _read_yaml(file)
    names = _class_names(file, value.get("names"))
    root = file.parent / str(value.get("path") or ".")
    listed = [str(place) for split in _SPLITS for place in _as_list(value.get(split))]
    if not listed:
        raise DataError(f"{file}: names none of {', '.join(_SPLITS)}")
    seen: dict[Path, None] = {}
    for place in listed:
        with problems.noted():
            seen |= dict.fromkeys(_yolo_images(file, root, root / place))
    for path in seen:
        with problems.noted():
            size = image_size(path)
            objects = _yolo_objects(label_file(path), names, size, problems)
            yield LabelledImage(path, size, tuple(objects))


def _read_yaml(file: Path) -> Mapping[str, Any]:
    try:
        value = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as err:
        raise DataError(f"{file}: not a readable YAML file: {' '.join(str(err).split())}") from err
    if not isinstance(value, Mapping):
        raise DataError(f"{file}: expected a mapping with names and train or val")
    return value


def _class_names(file: Path, value: object) -> list[str]:
    if isinstance(value, Mapping) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        return [str(value[number]) for number in range(len(value))]
    if isinstance(value, list) and value:
        return [str(name) for name in value]
    raise DataError(f"{file}: names: expected a list of class names, got {value!r:.60}")


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _yolo_images(file: Path, root: Path, place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if is_image(path))
    if place.suffix == ".txt" and place.is_file():
        lines = place.read_text(encoding="utf-8").splitlines()
        return [place.parent / line.strip() for line in lines if line.strip()]
    hint = f"paths start at {root}"
    raise DataError(f"{file}: no such folder or list: {place}", hint=hint)


def label_file(image: Path) -> Path:
    """Return where an image's YOLO labels are: the last folder `images` becomes `labels`."""
    parts = list(image.parts[:-1])
    places = [number for number, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return image.parents[-1].joinpath(*parts) / f"{image.stem}.txt"


def _yolo_objects(
    file: Path, names: list[str], size: Size, problems: Problems
) -> Iterator[LabelledObject]:
    """Yield the objects of a label file; a missing one says that there are none."""
    if not file.is_file():
        return
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield _yolo_object(line.split(), names, size)
        except ValueError as err:
            problems.add(f"{file}:{number}", str(err))


def _yolo_object(words: list[str], names: list[str], size: Size) -> LabelledObject:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        got = f"{len(words)} values"
        raise ValueError(f"expected class and 4 values, or class and a polygon, got {got}")
    values = [float(word) for word in words]
    label = values[0]
    if not label.is_integer() or not 0 <= label < len(names):
        raise ValueError(f"class: expected 0 to {len(names) - 1}, got {words[0]}")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values[1:]):  # NaN fails as well
        raise ValueError(f"expected values from 0 to 1, got {' '.join(words[1:])[:60]!r}")
    height, width = size
    outline: tuple[Polygon, ...] = ()
    if len(words) == 5:
        x, y, w, h = values[1:]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    else:
        points = [(x * width, y * height) for x, y in zip(values[1::2], values[2::2], strict=True)]
        outline = (tuple(points),)
        low = min(x for x, _ in points), min(y for _, y in points)
        high = max(x for x, _ in points), max(y for _, y in points)
        box = [*low, high[0] - low[0], high[1] - low[1]]
    return LabelledObject(names[int(label)], coco.corners(box, size), outline)
