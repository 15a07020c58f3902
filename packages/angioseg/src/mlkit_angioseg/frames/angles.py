"""C-arm angles: where they stand, what their signs mean, and whether they can be true.

DICOM (0018,1510) and (0018,1511): primary + is LAO, - is RAO; secondary + is CRA, - is CAU.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_angioseg.frames.csvfile import Cells

Angles = tuple[float, float]
PRIMARY = ("primary_angle", "primary")
SECONDARY = ("secondary_angle", "secondary")
_SAME_DEG = 0.05
_STRAIGHT_DEG = 5.0


def parse_angle(value: object, name: str) -> float | None:
    """Return degrees, or None where the value is missing (None or empty).

    Raises:
        ValueError: The value is no finite number.
    """
    if value is None or value == "":
        return None
    try:
        angle = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        angle = math.nan
    if isinstance(value, bool) or not math.isfinite(angle):
        raise ValueError(f"{name}: expected degrees, got {value!r}")
    return angle


def pick_angle(values: Mapping[str, object], names: tuple[str, ...]) -> float | None:
    """Return the angle under any of its spellings, None where it is missing.

    Raises:
        ValueError: A value is no number, or two spellings contradict each other.
    """
    found = {name: parse_angle(values.get(name), name) for name in names}
    given = {name: angle for name, angle in found.items() if angle is not None}
    if given and max(given.values()) - min(given.values()) > _SAME_DEG:
        raise ValueError(f"{' and '.join(map(repr, given))} contradict each other: {given}")
    return next(iter(given.values()), None)


def pick_angles(values: Mapping[str, object]) -> Angles | None:
    """Return primary and secondary of a mapping or of a table's cells; None where both miss.

    Raises:
        ValueError: One of the two is missing, no number, or given twice with two values.
    """
    primary, secondary = pick_angle(values, PRIMARY), pick_angle(values, SECONDARY)
    if primary is None and secondary is None:
        return None
    if primary is None or secondary is None:
        raise ValueError(f"{'primary' if primary is None else 'secondary'} angle is missing")
    return primary, secondary


def read_json_angles(path: Path) -> Angles | None:
    """Return the angles of a JSON file with `view_angles`, None where they are missing.

    Raises:
        ValueError: The file cannot be read as such; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ValueError(f"no such file {str(path)!r}") from err
    except ValueError as err:
        raise ValueError(f"{path.name}: is no JSON: {err}") from err
    views = content.get("view_angles") if isinstance(content, dict) else None
    if views is None:
        return None
    if not isinstance(views, dict):
        raise ValueError(f"{path.name}: view_angles: expected a mapping, got {views!r}")
    try:
        return pick_angles(views)
    except ValueError as err:
        raise ValueError(f"{path.name}: view_angles: {err}") from err


def agree(json_angles: Angles | None, cells: Cells) -> Angles | None:
    """Return the angles of the JSON file or of the table's own columns.

    Raises:
        ValueError: Both are given and differ.
    """
    own = pick_angles(cells)
    if json_angles is None or own is None:
        return json_angles or own
    if any(abs(a - b) > _SAME_DEG for a, b in zip(json_angles, own, strict=True)):
        raise ValueError(f"the table says angles {own}, its JSON file {json_angles}")
    return json_angles


def to_dicom(angles: Angles, convention: str) -> Angles:
    """Return the angles with DICOM signs.

    Raises:
        ValueError: No C-arm stands so: |primary| above 180 or |secondary| above 90.
    """
    primary, secondary = angles
    if abs(primary) > 180 or abs(secondary) > 90:
        raise ValueError(
            f"angles {primary:g}/{secondary:g} are out of range: ±180 primary, ±90 secondary"
        )
    return (-primary if convention == "rao_positive" else primary, secondary)


def view_bin(angles: Angles | None) -> str:
    """Return the bin of a view: LAO, RAO or AP, with CRA or CAU where the beam is tilted.

    Within 5 degrees of the sagittal plane a view is AP, within 5 degrees of the axial plane it is
    straight: `LAO-CRA`, `AP-CAU`, `RAO-straight`, `AP`; `unknown` without angles.

    Args:
        angles: Primary and secondary in degrees, DICOM signs.
    """
    if angles is None:
        return "unknown"
    primary, secondary = angles
    side = "AP" if abs(primary) <= _STRAIGHT_DEG else "LAO" if primary > 0 else "RAO"
    if abs(secondary) <= _STRAIGHT_DEG:
        return side if side == "AP" else f"{side}-straight"
    return f"{side}-{'CRA' if secondary > 0 else 'CAU'}"
