"""Masks of one frame, cut to the boxes around them, and their outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco

from mlkit_dvis.clips.masks import run_lengths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from mlkit_dvis.results import Rle


@dataclass(frozen=True)
class Shape:
    """A mask that is not empty, within its box.

    Args:
        top: First row of the box in the frame.
        left: First column.
        mask: `[h, w]` bool, what the box shows of the mask.
    """

    top: int
    left: int
    mask: npt.NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the box in the frame."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The box in frame pixels, right and bottom exclusive."""
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height


def shape_of(mask: npt.NDArray[np.bool_]) -> Shape | None:
    """Return a frame's mask `[H, W]` cut to its box; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return Shape(top, left, mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1])


def decode(rle: Mapping[str, Any] | None) -> Shape | None:
    """Return the mask that COCO's run lengths stand for, cut to its box; None where it is empty.

    Only the columns between the first and last pixel are laid out.
    """
    runs = _Runs.of(rle)
    if runs is None:
        return None
    first, last = int(runs.starts[0]) // runs.height, int(runs.ends[-1] - 1) // runs.height
    flat = np.zeros((last + 1 - first) * runs.height, np.int8)
    flat[runs.starts - first * runs.height] += 1
    ends = runs.ends - first * runs.height
    flat[ends[ends < len(flat)]] -= 1
    columns = np.cumsum(flat, dtype=np.int8).view(np.bool_).reshape(-1, runs.height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return Shape(top, first, np.ascontiguousarray(columns[:, top:bottom].T))


def area(rle: Mapping[str, Any] | None) -> int:
    """Return how many pixels a mask has."""
    runs = _Runs.of(rle)
    return 0 if runs is None else int((runs.ends - runs.starts).sum())


@dataclass(frozen=True)
class _Runs:
    """Runs of set pixels in a frame that is laid out column by column."""

    height: int
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]  # exclusive

    @classmethod
    def of(cls, rle: Mapping[str, Any] | None) -> _Runs | None:
        """Return the runs that are not empty; None where there is none."""
        if rle is None:
            return None
        edges = np.cumsum(run_lengths(rle))
        starts, ends = edges[:-1:2], edges[1::2]
        some = ends > starts
        if not some.any():
            return None
        return cls(int(rle["size"][0]), starts[some], ends[some])


def box_of(rle: Mapping[str, Any] | None) -> tuple[int, int, int, int] | None:
    """Return the box around a mask, xyxy in pixels, right and bottom exclusive."""
    shape = decode(rle)
    return None if shape is None else shape.box_xyxy


def encode(shape: Shape | None, size: tuple[int, int]) -> Rle | None:
    """Return the run lengths of a mask in a frame of `size` height and width."""
    if shape is None:
        return None
    frame = np.zeros(size, np.uint8, order="F")
    frame[shape.window] = shape.mask
    encode_frame: Any = coco.encode  # pycocotools has no types
    rle: dict[str, Any] = encode_frame(frame)
    return {"size": [int(value) for value in rle["size"]], "counts": rle["counts"].decode("ascii")}


def outline(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """Return those pixels of `mask [h, w]` that lie less than `width` steps from its outside.

    Steps go to the four neighbours; beyond the array is outside.
    """
    inner = np.pad(mask, 1)
    for _ in range(width):
        smaller = inner.copy()
        smaller[1:] &= inner[:-1]
        smaller[:-1] &= inner[1:]
        smaller[:, 1:] &= inner[:, :-1]
        smaller[:, :-1] &= inner[:, 1:]
        inner = smaller
    return mask & ~inner[1:-1, 1:-1]


def union(shapes: Iterable[Shape | None], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return `[H, W]`: the pixels of a frame that lie in any of the masks."""
    covered = np.zeros(size, np.bool_)
    for shape in shapes:
        if shape is not None:
            covered[shape.window] |= shape.mask
    return covered
