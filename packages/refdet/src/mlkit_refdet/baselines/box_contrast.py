"""How much more alike to the reference a box is than what surrounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def box_sums(maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integral of each map over each box, and the boxes' areas, both clipped to the map.

    A map is constant within a cell, so that fractional borders are exact.

    Source: Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984.

    Args:
        maps: `[R, h, w]`.
        boxes: `[P, 4]`, xyxy in cells; cell (0, 0) reaches from 0 to 1.

    Returns:
        `[R, P]` and `[P]`.
    """
    height, width = maps.shape[1:]
    table = functional.pad(maps.double(), (1, 0, 1, 0)).cumsum(1).cumsum(2)  # [R, h + 1, w + 1]
    limit = boxes.new_tensor([width, height, width, height])
    x0, y0, x1, y1 = boxes.clamp(min=0).minimum(limit).double().unbind(1)
    corners = [(y1, x1, 1), (y0, x1, -1), (y1, x0, -1), (y0, x0, 1)]
    sums = sum(sign * _at(table, y, x) for y, x, sign in corners)
    return torch.as_tensor(sums).to(maps.dtype), ((x1 - x0) * (y1 - y0)).to(maps.dtype)


def _at(table: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return a summed-area table between its entries, where it is bilinear: `[R, P]`."""
    top = y.floor().long().clamp(max=table.shape[1] - 2)
    left = x.floor().long().clamp(max=table.shape[2] - 2)
    down, right = y - top, x - left
    upper = table[:, top, left] * (1 - right) + table[:, top, left + 1] * right
    lower = table[:, top + 1, left] * (1 - right) + table[:, top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def box_contrast(maps: Tensor, boxes: Tensor, ring: float) -> tuple[Tensor, Tensor]:
    """Return the mean within each box, and the mean of the ring around it, both `[R, P]`.

    The ring is the box with both sides `ring` times as long, without the box itself. Where nothing
    of it lies on the map, its mean is 0.

    Args:
        maps: `[R, h, w]`.
        boxes: `[P, 4]`, xyxy in cells.
        ring: Side of the ring, in sides of the box, > 1.
    """
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ring
    inner, area = box_sums(maps, boxes)
    outer, whole = box_sums(maps, torch.cat([middle - half, middle + half], 1))
    rest = whole - area
    inside = inner / area.clamp_min(1e-6)
    around = (outer - inner) / rest.clamp_min(1e-6)
    return inside, torch.where(rest > 1e-4, around, 0.0)
