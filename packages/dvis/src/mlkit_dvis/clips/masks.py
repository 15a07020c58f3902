"""Masks of annotation files: polygons and run lengths, checked before they are decoded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pycocotools import mask as coco_masks

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlkit_dvis.results import Rle

    # COCO's polygons `[[x, y, …], …]` in pixels, or run lengths as numbers or as text.
    Segmentation = Sequence[Sequence[float]] | Mapping[str, Any]

_FARTHEST = 100_000  # pycocotools walks along polygons pixel by pixel, and crashes far out
_FIRST, _BITS = 48, 5  # a character of run lengths as text holds 5 bits and "more follow"


def fault_of(segmentation: object, size: tuple[int, int], *, whole: bool = False) -> str | None:
    """Return what is wrong with a mask of an annotation file, None if nothing is.

    Args:
        segmentation: Polygons, or run lengths.
        size: Height and width of the frame.
        whole: Also read run lengths that are text; slow for large sets, and done before decoding.
    """
    if isinstance(segmentation, list):
        return _polygon_fault(cast("list[object]", segmentation))
    if not isinstance(segmentation, dict):
        return f"expected polygons or run lengths, got {segmentation!r:.40}"
    rle = cast("dict[str, object]", segmentation)
    if rle.get("size") != list(size):
        want = f"{size[0]} x {size[1]}"
        return f"run lengths are of size {rle.get('size')}, the video is {want} (height x width)"
    counts = rle.get("counts")
    if isinstance(counts, list):
        return _counts_fault(cast("list[object]", counts), size)
    if not isinstance(counts, str | bytes):
        return f"counts: expected numbers or text, got {counts!r:.40}"
    return _text_fault(counts, size) if whole else None


def _polygon_fault(polygons: list[object]) -> str | None:
    for number, polygon in enumerate(polygons):
        values = cast("list[object]", polygon) if isinstance(polygon, list) else []
        if len(values) < 6 or len(values) % 2:
            return f"polygon {number}: expected x, y of at least 3 points, got {polygon!r:.40}"
        for value in values:
            if not isinstance(value, int | float) or not math.isfinite(value):
                return f"polygon {number}: expected numbers, got {value!r:.40}"
            if abs(value) > _FARTHEST:
                return f"polygon {number}: {value!r:.40} lies more than {_FARTHEST} pixels away"
    return None


def _counts_fault(counts: list[object], size: tuple[int, int]) -> str | None:
    if not all(type(count) is int and count >= 0 for count in counts):
        return "counts: expected whole numbers from 0 on"
    total = sum(cast("list[int]", counts))
    return _total_fault(total, size)


def _text_fault(text: str | bytes, size: tuple[int, int]) -> str | None:
    counts = text_counts(text)
    if counts is None or bool((counts < 0).any()):
        return "counts: the text is cut short or no run lengths"
    return _total_fault(int(counts.sum()), size)


def _total_fault(total: int, size: tuple[int, int]) -> str | None:
    pixels = size[0] * size[1]
    return None if total == pixels else f"run lengths cover {total} pixels, a frame has {pixels}"


def text_counts(text: str | bytes) -> npt.NDArray[np.int64] | None:
    """Return the run lengths that COCO's text stands for, None if it is cut short or no such text.

    Each is a signed number in groups of 5 bits, low ones first; from the fourth on, it is the
    difference to the one before the last.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        return None
    groups = np.frombuffer(raw, np.uint8).astype(np.int64) - _FIRST
    more = (groups & (1 << _BITS)) > 0
    if not len(groups) or more[-1] or groups.min() < 0 or groups.max() >= 2 << _BITS:
        return None
    ends = np.flatnonzero(~more)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = _BITS * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    if place.max() > 30:  # more than 32 bits
        return None
    values = np.add.reduceat((groups & 31) << place, starts)
    negative = (groups[ends] & 16) > 0
    values[negative] -= np.int64(1) << (place[ends][negative] + _BITS)
    for parity in (1, 2):
        values[parity::2] = values[parity::2].cumsum()
    return values


def run_lengths(rle: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return a mask's run lengths, down its columns, unset pixels first.

    Raises:
        DataError: They are text that is cut short or stands for none.
    """
    given = rle["counts"]
    counts = np.asarray(given, np.int64) if isinstance(given, list) else text_counts(given)
    if counts is None:
        raise DataError("the text is cut short or no run lengths")
    return counts


def to_rle(segmentation: object, size: tuple[int, int]) -> Rle | None:
    """Return COCO's compressed run lengths; None for no mask, or one without a pixel.

    Args:
        segmentation: None, polygons, or run lengths as numbers or text.
        size: Height and width of the frame.

    Raises:
        DataError: It is malformed, or of another size.
    """
    if segmentation is None or segmentation == []:
        return None
    fault = fault_of(segmentation, size, whole=True)
    if fault is not None:
        raise DataError(fault)
    mask: Any = segmentation
    if isinstance(mask, list):
        rle = coco_masks.merge(coco_masks.frPyObjects(mask, *size))  # pyright: ignore[reportArgumentType]
    elif isinstance(mask["counts"], list):
        rle: Any = coco_masks.frPyObjects(mask, *size)
    else:
        rle = mask
    return plain_rle(rle) if coco_masks.area(rle) else None


def plain_rle(rle: Any) -> Rle:  # noqa: ANN401  # pycocotools' own
    """Return run lengths as JSON takes them: sizes as numbers, counts as text."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}


def encode(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> Rle | None:
    """Return a mask's run lengths, `[H, W]` 0 or 1; None if it has no pixel."""
    if not mask.any():
        return None
    return plain_rle(coco_masks.encode(np.asfortranarray(mask, np.uint8)))


def decode(rle: Rle) -> npt.NDArray[np.uint8]:
    """Return the mask `[H, W]`, 0 or 1, of run lengths that `to_rle` has checked.

    Unlike pycocotools' own, it writes no further than the runs go, and no warning.
    """
    counts = run_lengths(rle)
    height, width = rle["size"]
    values = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.repeat(values, counts).reshape(width, height).T
