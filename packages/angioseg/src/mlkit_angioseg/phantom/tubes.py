"""Rasterises tubes: path length of the beam inside them, and their mask.

A tube is a chain of short slices. A disc of unit height, moved along a straight axis, sums to
the chord `2 sqrt(R^2 - d^2)` of a cylinder; so adding one disc per slice, weighted by the slice's
length in space, gives the path length in millimetres. Foreshortened tubes and crossings darken
as they should, because volume is conserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlkit_angioseg.phantom.geometry import CArm, View


@dataclass(frozen=True)
class Slices:
    """N slices of tubes on the image, each a disc.

    Args:
        column: `[N]`, pixels.
        row: `[N]`, pixels.
        radius_px: `[N]`.
        weight: `[N]`, height of the disc: length of the slice in mm for a path length in mm.
        distance_mm: `[N]`, way along the tube; tells when contrast arrives.
    """

    column: NDArray[np.float64]
    row: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    weight: NDArray[np.float64]
    distance_mm: NDArray[np.float64]


@dataclass(frozen=True)
class Tube:
    """A chain of points `[N, 3]` in mm with diameters `[N]` and distances `[N]` in mm."""

    points_mm: NDArray[np.float64]
    diameters_mm: NDArray[np.float64]
    distance_mm: NDArray[np.float64]


def project_tubes(
    tubes: Sequence[Tube], carm: CArm, view: View, min_width_px: float = 1.5
) -> Slices:
    """Return the slices of tubes in one view.

    Args:
        tubes: At least one, each of two or more points.
        carm: Geometry of the image.
        view: C-arm angles.
        min_width_px: Thinner tubes are drawn this wide and paler, their volume kept.
    """
    points = np.concatenate([tube.points_mm for tube in tubes])
    column, row, magnification = carm.project(points, view.primary_deg, view.secondary_deg)
    radius = np.concatenate([t.diameters_mm for t in tubes]) / 2 * magnification / carm.pitch_mm
    distance = np.concatenate([tube.distance_mm for tube in tubes])
    ends = np.cumsum([len(tube.points_mm) for tube in tubes])[:-1]
    first = np.setdiff1d(np.arange(len(points) - 1), ends - 1)
    length_mm = np.linalg.norm(points[first + 1] - points[first], axis=1)
    columns = np.stack([column, row, radius, distance])
    return _slice(columns[:, first], columns[:, first + 1], length_mm, min_width_px / 2)


def _slice(
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    length: NDArray[np.float64],
    min_radius_px: float,
) -> Slices:
    """Cut segments, `[4, S]` of column, row, radius and distance, into short slices."""
    thick = np.maximum(start[2], min_radius_px)
    pixels = np.hypot(*(stop[:2] - start[:2]))
    count = np.maximum(1, np.ceil(pixels / np.maximum(0.4, 0.35 * thick))).astype(int)
    segment = np.repeat(np.arange(len(count)), count)
    order = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    fraction = (order + 0.5) / count[segment]
    column, row, radius, distance = (
        start[:, segment] + (stop[:, segment] - start[:, segment]) * fraction
    )
    drawn = np.maximum(radius, min_radius_px)
    # The soft edge adds pi / 12 to a disc's area; take it off, so that volume is kept.
    weight = length[segment] / count[segment] * radius**2 / (drawn**2 + 1 / 12)
    return Slices(column, row, drawn, weight, distance)


def rasterise(
    slices: Slices, size: int, fill: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return path length `[H, W]` in mm with soft edges, and the exact mask `[H, W]`.

    A pixel belongs to the mask if its centre lies within the radius of a slice.

    Args:
        slices: Discs in pixels.
        size: Side of the image.
        fill: `[N]`, contrast in each slice from 0 to 1, all full if none; slices under one half
            are left out of the mask.
    """
    path = np.zeros(size * size)
    mask = np.zeros(size * size, dtype=bool)
    fill = np.ones(len(slices.column)) if fill is None else fill
    reach = np.ceil(slices.radius_px + 0.5).astype(int)
    seen = (fill > 0) & (np.abs(slices.column - size / 2) < size / 2 + reach)
    seen &= np.abs(slices.row - size / 2) < size / 2 + reach
    for half in np.unique(reach[seen]):
        chosen = np.flatnonzero(seen & (reach == half))
        flat, cover, inside = _discs(slices, chosen, int(half), size)
        cover *= (slices.weight[chosen] * fill[chosen]).astype(np.float32)[:, None]
        path += np.bincount(flat.ravel(), cover.ravel(), size * size + 1)[:-1]
        labelled = inside & (fill[chosen] >= 0.5)[:, None]
        hit = flat[labelled]
        mask[hit[hit < size * size]] = True
    return path.reshape(size, size).astype(np.float32), mask.reshape(size, size)


def _discs(
    slices: Slices, chosen: NDArray[np.intp], half: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Pixel index, coverage and membership, each `[N, P]`; outside pixels index `size * size`."""
    offset = np.arange(-half, half + 1)
    column = np.rint(slices.column[chosen]).astype(np.int64)[:, None, None] + offset
    row = np.rint(slices.row[chosen]).astype(np.int64)[:, None, None] + offset[:, None]
    dx = (column - slices.column[chosen, None, None]).astype(np.float32)
    dy = (row - slices.row[chosen, None, None]).astype(np.float32)
    distance = np.sqrt(dx * dx + dy * dy)
    radius = slices.radius_px[chosen, None, None].astype(np.float32)
    cover = np.clip(radius + np.float32(0.5) - distance, 0, 1)
    outside = (column < 0) | (column >= size) | (row < 0) | (row >= size)
    flat = np.where(outside, size * size, row * size + column)
    shape = (len(chosen), -1)
    return flat.reshape(shape), cover.reshape(shape), (distance <= radius).reshape(shape)
