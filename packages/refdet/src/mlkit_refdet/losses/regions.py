"""Features of regions and of single cells, read from the pyramid level that suits each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit
from torchvision.ops import roi_align

from mlkit_core.errors import BuildError
from mlkit_refdet.features import STRIDES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

CELLS, SAMPLES = 7, 2  # of a region's side, and per side of a cell
LEVEL_CELLS = 8  # a level reads boxes whose side, sqrt(width * height), is below this many strides


@dataclass(frozen=True)
class LevelPart:
    """The items that are read from one level.

    Args:
        level: Its name.
        index: `[n]`, place of each item among all.
        values: `[n, C]`.
    """

    level: str
    index: Tensor
    values: Tensor


def box_levels(boxes_xyxy: Tensor, strides: Sequence[float]) -> Tensor:
    """Return the level that each box is read from, `[n]`: at strides 8, 16, 32 by 64 and 128 px.

    Args:
        boxes_xyxy: `[n, 4]`, pixels; a box's size is the root of its area.
        strides: Pixels per cell of each level, fine to coarse.
    """
    width, height = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp_min(0).unbind(1)
    bounds = boxes_xyxy.new_tensor([LEVEL_CELLS * stride for stride in strides[:-1]])
    return torch.bucketize((width * height).sqrt(), bounds, right=True)


def region_features(
    maps: Mapping[str, Tensor],
    boxes_xyxy: Tensor,
    rows: Tensor,
    strides: Mapping[str, float] = STRIDES,
) -> tuple[list[LevelPart], Tensor]:
    """Return each box's mean feature from its own level, and that level's index `[n]`.

    RoIAlign over 7 x 7 cells of 2 x 2 samples, edges aligned, and the mean over the cells.
    Source: He et al., "Mask R-CNN", ICCV 2017, section 3.

    Args:
        maps: Level to `[R, C, h, w]`, fine to coarse; widths may differ.
        boxes_xyxy: `[n, 4]`, input pixels.
        rows: `[n]`, row of the maps.
        strides: Level to pixels per cell.
    """
    level = box_levels(boxes_xyxy, [_stride(strides, name) for name in maps])
    rois = torch.cat([rows[:, None].to(boxes_xyxy.dtype), boxes_xyxy], 1)
    parts: list[LevelPart] = []
    for order, (name, values) in enumerate(maps.items()):
        index = (level == order).nonzero()[:, 0]
        cells = roi_align(
            values,
            rois[index].to(values.dtype),
            CELLS,
            spatial_scale=1 / _stride(strides, name),
            sampling_ratio=SAMPLES,
            aligned=True,
        )
        parts.append(LevelPart(name, index, cells.mean((2, 3))))
    return parts, level


def region_embeddings(
    embed: Mapping[str, Tensor],
    boxes_xyxy: Tensor,
    rows: Tensor,
    strides: Mapping[str, float] = STRIDES,
) -> tuple[Tensor, Tensor]:
    """Return each box's embedding, `[n, D]` of unit length, and its level's index, `[n]`.

    Args:
        embed: Level to `[B, D, h, w]`, fine to coarse.
        boxes_xyxy: `[n, 4]`, input pixels.
        rows: `[n]`, image.
        strides: Level to pixels per cell.
    """
    parts, level = region_features(embed, boxes_xyxy, rows, strides)
    return F.normalize(in_order(parts), dim=-1), level


def cell_features(maps: Mapping[str, Tensor], rows: Tensor, anchors: Tensor) -> list[LevelPart]:
    """Return the features of single cells.

    Args:
        maps: Level to `[R, C, h, w]`, fine to coarse; widths may differ.
        rows: `[n]`, row of the maps.
        anchors: `[n]`, cell, counted over all levels, row by row within one.
    """
    parts: list[LevelPart] = []
    start = 0
    for name, values in maps.items():
        flat = values.flatten(2)
        cell = anchors - start
        index = ((cell >= 0) & (cell < flat.shape[2])).nonzero()[:, 0]
        parts.append(LevelPart(name, index, flat[rows[index], :, cell[index]]))
        start += flat.shape[2]
    return parts


def in_order(parts: Sequence[LevelPart]) -> Tensor:
    """Return the items of all levels in their own order, `[n, C]`; every level has one width."""
    order = torch.cat([part.index for part in parts]).argsort()
    return torch.cat([part.values for part in parts])[order]


def level_of(parts: Sequence[LevelPart]) -> Tensor:
    """Return the index of the level that each item is read from, in their own order, `[n]`."""
    level = [torch.full_like(part.index, order) for order, part in enumerate(parts)]
    return torch.cat(level)[torch.cat([part.index for part in parts]).argsort()]


def hardest_locations(
    embed: Mapping[str, Tensor], images: Tensor, prototypes: Tensor, count: int
) -> Tensor:
    """Return the highest cosines of each prototype and an image's cells, `[I, b, count]`.

    Every level is searched with its own prototype; images of fewer cells give them all.

    Args:
        embed: Level to `[B, D, h, w]`, fine to coarse.
        images: `[b]`, which of the B are searched.
        prototypes: `[L, I, D]`, by level, unit length.
        count: Cells that are kept.
    """
    cosines: list[Tensor] = []
    for values, wanted in zip(embed.values(), prototypes, strict=True):
        cells = F.normalize(values[images].flatten(2), dim=1)  # [b, D, h * w]
        cosines.append((wanted @ cells).transpose(0, 1))
    every = torch.cat(cosines, 2)
    return every.topk(min(count, every.shape[2]), dim=2).values


def _stride(strides: Mapping[str, float], level: str) -> float:
    if level not in strides:
        raise BuildError(f"level {level!r}: stride is not known; there are {', '.join(strides)}")
    return strides[level]
