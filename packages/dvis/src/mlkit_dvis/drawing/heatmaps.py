"""Attention over the padded input's grid, brought to the frame's pixels, and to colours.

A grid cell stands for a square of the padded input; the frame fills the input's upper left part,
whose shares of height and width are called `content` here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlkit_dvis.drawing.overlay import Picture

    Floats = npt.NDArray[np.float32]

# Nine steps of matplotlib's "inferno" (CC0): even to the eye, also in grey.
_HEAT = (
    (0, 0, 4),
    (33, 12, 74),
    (87, 16, 110),
    (138, 34, 106),
    (188, 55, 84),
    (228, 90, 49),
    (249, 142, 9),
    (249, 203, 53),
    (252, 255, 164),
)
_BASE = 0.62  # brightness of the grey frame below
_DENSEST = 0.9  # how much the largest value hides of it
_LIFT = 0.6  # exponent that makes small values seen


def frame_map(attention: Floats, content: tuple[float, float], size: tuple[int, int]) -> Floats:
    """Return a map `[h, w]` of the padded grid as `[H, W]` over the frame: bilinear, cropped.

    The same as enlarging to the padded input between pixel centres, cutting the padding off and
    scaling to the frame, in one step.

    Args:
        attention: Over the grid.
        content: Shares of the padded height and width that show the frame.
        size: Height and width of the frame in pixels.
    """
    values = attention
    for axis, (pixels, share) in enumerate(zip(size, content, strict=True)):
        low, high, part = _places(pixels, values.shape[axis], share)
        part = part[:, None] if axis == 0 else part
        below, above = values.take(low, axis), values.take(high, axis)
        values = below + (above - below) * part
    return values.astype(np.float32, copy=False)


@lru_cache(maxsize=32)
def _places(
    pixels: int, cells: int, share: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Return for each pixel the cells before and after its centre, and how far it is between."""
    centres = (np.arange(pixels) + 0.5) / pixels * share * cells - 0.5
    centres = np.clip(centres, 0, cells - 1)
    low = np.floor(centres).astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), (centres - low).astype(np.float32)


def covered_share(
    mask: npt.NDArray[np.bool_], content: tuple[float, float], grid: tuple[int, int]
) -> Floats:
    """Return for each cell of the padded grid, `[h, w]`, how much of it a mask `[H, W]` covers.

    Exact areas: pixels that straddle cells count for both by their parts; padding is not covered.
    """
    rows = _overlaps(mask.shape[0], grid[0], content[0])
    columns = _overlaps(mask.shape[1], grid[1], content[1])
    return (rows @ mask.astype(np.float32) @ columns.T).astype(np.float32, copy=False)


@lru_cache(maxsize=8)
def _overlaps(pixels: int, cells: int, share: float) -> Floats:
    """Return `[cells, pixels]`: the share of each cell that each pixel covers."""
    edges = np.arange(pixels + 1) / pixels * share * cells
    first = np.arange(cells)[:, None]
    covered = np.minimum(edges[1:], first + 1) - np.maximum(edges[:-1], first)
    return np.maximum(covered, 0).astype(np.float32)


def share_outside(attention: Floats, covered: Floats) -> Floats:
    """Return how much of each map `[n, h, w]` lies outside what is covered, 0..1, `[n]`."""
    total = attention.sum((1, 2))
    inside = (attention * covered).sum((1, 2))
    return np.clip(1 - inside / np.maximum(total, 1e-12), 0, 1).astype(np.float32)


def attention_centres(
    attention: Floats, content: tuple[float, float], size: tuple[int, int]
) -> Floats:
    """Return the centre of mass of each map `[n, h, w]` in frame pixels, x then y, `[n, 2]`."""
    total = np.maximum(attention.sum((1, 2)), 1e-12)
    centres: list[npt.NDArray[np.floating]] = []
    for axis, sums in ((1, attention.sum(1)), (0, attention.sum(2))):
        cells = attention.shape[1 + axis]
        pixels = (np.arange(cells) + 0.5) / cells / content[axis] * size[axis]
        centres.append(np.clip(sums @ pixels / total, 0, size[axis]))
    return np.stack(centres, 1).astype(np.float32)


def heat_picture(frame: Picture, heat: Floats) -> Picture:
    """Return a grey frame with a map `[H, W]` in colours; the largest value is the brightest."""
    peak = float(heat.max(initial=0.0))
    level = (heat * np.float32(255 / peak if peak > 0 else 0)).astype(np.uint8)
    keep, colours = _tables()
    weights = np.array([77, 150, 29], np.uint16)
    grey = (
        frame[..., 0] * weights[0] + frame[..., 1] * weights[1] + frame[..., 2] * weights[2]
    ) >> 8
    base = grey * keep[level]
    return np.stack([(base + channel[level]) >> 8 for channel in colours], -1).astype(np.uint8)


@lru_cache(maxsize=1)
def _tables() -> tuple[npt.NDArray[np.uint16], list[npt.NDArray[np.uint16]]]:
    """Return for 256 levels: the frame's share, and each channel's part, both in 1 / 256."""
    level = np.linspace(0, 1, 256)
    alpha = level**_LIFT * _DENSEST
    steps = np.linspace(0, 1, len(_HEAT))
    colours = [
        np.interp(level, steps, [c[channel] for c in _HEAT]) * alpha * 256 for channel in range(3)
    ]
    keep = ((1 - alpha) * _BASE * 256).astype(np.uint16)
    return keep, [channel.astype(np.uint16) for channel in colours]
