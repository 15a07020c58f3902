"""Cells, distances and boxes: how dense outputs become boxes in input pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_refdet.results import BINS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_LAST = 0.01  # a target keeps this far below the last bin, so that it has one above it


def anchor_points(
    maps: Mapping[str, Tensor], strides: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """Return the cells' centres and strides, level by level, rows before columns.

    Args:
        maps: Level to `[R, C, h, w]`.
        strides: Level to input pixels per cell.

    Returns:
        `[A, 2]` x and y in input pixels, and `[A]` strides.
    """
    points, every = [], []
    for level, values in maps.items():
        height, width = values.shape[2:]
        stride = float(strides[level])
        like = {"device": values.device, "dtype": torch.float32}
        rows, columns = torch.arange(height, **like) + 0.5, torch.arange(width, **like) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points.append(torch.stack((x, y), -1).flatten(0, 1) * stride)
        every.append(torch.full((height * width,), stride, **like))
    return torch.cat(points), torch.cat(every)


def expectation(distances_logits: Tensor) -> Tensor:
    """Return expected distances in bins, `[…, 4 * BINS]` to `[…, 4]`.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 5.
    """
    probabilities = distances_logits.unflatten(-1, (4, -1)).softmax(-1)
    bins = torch.arange(
        probabilities.shape[-1], device=probabilities.device, dtype=probabilities.dtype
    )
    return probabilities @ bins


def distances_to_boxes(ltrb_bins: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Return boxes xyxy in input pixels, `[…, A, 4]`.

    Args:
        ltrb_bins: `[…, A, 4]`, distances left, top, right, bottom in strides.
        points: `[A, 2]`, input pixels.
        strides: `[A]`.
    """
    reach = ltrb_bins * strides[:, None]
    return torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)


def boxes_to_distances(
    boxes_xyxy: Tensor, points: Tensor, strides: Tensor, bins: int = BINS
) -> Tensor:
    """Return distances left, top, right, bottom in strides, `[…, A, 4]`, within 0..bins - 1.01.

    The inverse of `distances_to_boxes` for boxes that a level can hold: of side up to
    2 * (bins - 1) strides around their middle.

    Args:
        boxes_xyxy: `[…, A, 4]`, one box for each cell, input pixels.
        points: `[A, 2]`.
        strides: `[A]`.
        bins: Of a side.
    """
    before, after = points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points
    return (torch.cat((before, after), -1) / strides[:, None]).clamp(0, bins - 1 - _LAST)
