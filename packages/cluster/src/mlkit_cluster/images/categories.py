"""Classes of COCO and the groups that they belong to, and any other grouping from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014: the 80 classes with boxes.
COCO_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# First and last class of each of COCO's groups, in COCO's order.
_COCO_GROUPS = {
    "person": (0, 0),
    "vehicle": (1, 8),
    "outdoor": (9, 13),
    "animal": (14, 23),
    "accessory": (24, 28),
    "sports": (29, 38),
    "kitchen": (39, 45),
    "food": (46, 55),
    "furniture": (56, 61),
    "electronic": (62, 67),
    "appliance": (68, 72),
    "indoor": (73, 79),
}


@dataclass(frozen=True)
class Supercategories:
    """Groups of classes.

    Args:
        names: Of the groups; a group's id is its place.
        groups: For each class the id of its group, -1 where it has none.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...]

    def of(self, label: int) -> int:
        """Return the group of a class; -1 for no class and for a class without a group."""
        return self.groups[label] if 0 <= label < len(self.groups) else -1


def supercategories(names: Sequence[str], file: Path | None = None) -> Supercategories:
    """Return the groups of a detector's classes.

    Without a file these are COCO's twelve for classes that COCO knows by name; a class that it
    does not know has none.

    Args:
        names: Of the classes.
        file: YAML: group to a list of class names or class numbers.

    Raises:
        InputError: The file cannot be read, names an unknown class, or one class twice.
    """
    if file is not None:
        return _grouped(names, _read_groups(file), file)
    if not set(names) & set(COCO_NAMES):
        return Supercategories((), (-1,) * len(names))
    known = {
        COCO_NAMES[label]: group
        for group, (first, last) in enumerate(_COCO_GROUPS.values())
        for label in range(first, last + 1)
    }
    return Supercategories(tuple(_COCO_GROUPS), tuple(known.get(name, -1) for name in names))


def _read_groups(file: Path) -> Mapping[str, Sequence[str | int]]:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        said = " ".join(str(err).split())
        raise InputError(f"{file}: not a readable YAML file: {said}") from err
    if not isinstance(value, dict) or not all(isinstance(v, list) for v in value.values()):
        raise InputError(
            f"{file}: expected group to list of classes, got {type(value).__name__}",
            hint="for example `vehicle: [car, bus]`",
        )
    return value


def _grouped(
    names: Sequence[str], groups: Mapping[str, Sequence[str | int]], file: Path
) -> Supercategories:
    found = [-1] * len(names)
    for group, members in enumerate(groups.values()):
        for member in members:
            label = member if isinstance(member, int) else _label(names, str(member))
            if not 0 <= label < len(names):
                raise InputError(f"{file}: {member!r} is no class of the detector")
            if found[label] >= 0:
                raise InputError(f"{file}: class {names[label]!r} stands in two groups")
            found[label] = group
    return Supercategories(tuple(map(str, groups)), tuple(found))


def _label(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else -1
