"""Shapes of CVAT's XML as masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlkit_core.errors import DataError
from mlkit_dvis.clips.masks import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    import numpy.typing as npt

    from mlkit_dvis.clips.masks import Segmentation

SHAPES = ("polygon", "mask", "box")


def mask_of(shape: Element, size: tuple[int, int]) -> Segmentation | None:
    """Return a shape's mask, None if it has no pixel within the frame.

    Args:
        shape: One of `SHAPES`.
        size: Height and width of the frame.

    Raises:
        DataError: Numbers are missing or none, or it lies outside of the frame.
    """
    if shape.tag == "polygon":
        return [_points(shape)]
    if shape.tag == "box":
        left, top, right, bottom = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        angle = _number(shape, "rotation") if shape.get("rotation") else 0.0
        return [_turned(corners, math.radians(angle))]
    return encode(_bitmap(shape, size))


def _points(shape: Element) -> list[float]:
    text = shape.get("points", "")
    try:
        points = [[float(value) for value in point.split(",")] for point in text.split(";")]
    except ValueError as err:
        raise DataError(f"points: expected x,y;x,y;…, got {text!r:.40}") from err
    if any(len(point) != 2 for point in points):
        raise DataError(f"points: expected x,y;x,y;…, got {text!r:.40}")
    return [value for point in points for value in point]


def _turned(corners: Sequence[tuple[float, float]], angle: float) -> list[float]:
    """Return x, y, x, y, … of a box turned clockwise about its centre, by radians."""
    centre_x, centre_y = (sum(values) / len(corners) for values in zip(*corners, strict=True))
    turned: list[float] = []
    for x, y in corners:
        across, down = x - centre_x, y - centre_y
        turned.append(centre_x + across * math.cos(angle) - down * math.sin(angle))
        turned.append(centre_y + across * math.sin(angle) + down * math.cos(angle))
    return turned


def _number(shape: Element, key: str) -> float:
    text = shape.get(key, "")
    try:
        value = float(text)
    except ValueError as err:
        raise DataError(f"{key}: expected a number, got {text!r:.40}") from err
    if not math.isfinite(value):
        raise DataError(f"{key}: expected a number, got {text!r}")
    return value


def _bitmap(shape: Element, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a brush mask, `[H, W]`: run lengths by rows, background first, within a box."""
    left, top, width, height = (int(_number(shape, k)) for k in ("left", "top", "width", "height"))
    text = shape.get("rle", "")
    try:
        runs = np.array([int(run) for run in text.split(",")], np.int64)
    except ValueError as err:
        raise DataError(f"rle: expected numbers, got {text!r:.40}") from err
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise DataError(f"its box {left}, {top}, {width}, {height} leaves the frame {size}")
    if (runs < 0).any() or runs.sum() != width * height:
        raise DataError(f"rle: covers {runs.sum()} pixels, its box has {width * height}")
    values = np.arange(len(runs)) % 2 == 1
    bitmap = np.zeros(size, bool)
    bitmap[top : top + height, left : left + width] = np.repeat(values, runs).reshape(height, width)
    return bitmap
