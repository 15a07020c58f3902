"""Reference photos: where the object is, and its prototype and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from mlkit_core.types import tracing
from mlkit_refdet.encoders.projection import unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_refdet.encoders.projection import Projection

_FLAT = 1e-3  # of a cosine: below, scaling would make an object out of rounding errors
_CENTRE = 0.5  # squared width of the centre's bump, in half sides
_BORDER = 0.15  # of the side: what a photo's edge shows is mostly not the object


def foreground_weights(mask: Tensor | None, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each cell's share of object, level to `[R, h, w]`; every photo has some.

    A mask of zeros says that the object's place is not known; it is then where features differ
    from those of the photo's border, above all near the centre. A ViT's and a YOLO's photos are
    treated alike: of 51 pasted products, prototypes so pooled found 51 to 71 % again (p3 and p4),
    without the centre 33 to 49 %, by the first principal component and the centre 37 to 51 %.

    Args:
        mask: `[R, H, W]`, 1 on the object, or None: known of no photo.
        maps: Level to `[R, C, h, w]`.
    """
    if mask is None:
        return {level: guessed_foreground(values) for level, values in maps.items()}
    known = mask.flatten(1).any(1)[:, None, None]
    # On a device, to ask whether all are known would wait for it at every step.
    everywhere = not tracing() and not mask.is_cuda and bool(known.all())
    found: dict[str, Tensor] = {}
    for level, values in maps.items():
        size = values.shape[2:]
        pooled = functional.adaptive_avg_pool2d(mask[:, None].to(values.dtype), size)[:, 0]
        found[level] = (
            pooled if everywhere else torch.where(known, pooled, guessed_foreground(values))
        )
    return found


def guessed_foreground(values: Tensor) -> Tensor:
    """Return each cell's share of object where no mask says it, `[R, C, h, w]` to `[R, h, w]`."""
    return border_contrast(values) * centre_bump(values)


def border_contrast(values: Tensor) -> Tensor:
    """Return one minus the cosine with the border's mean feature, 0..1 by photo, `[R, h, w]`.

    Args:
        values: `[R, C, h, w]`.
    """
    height, width = values.shape[2:]
    edge = max(1, round(min(height, width) * _BORDER))
    inner = torch.zeros(height, width, dtype=torch.bool, device=values.device)
    inner[edge : height - edge, edge : width - edge] = True
    cells = unit(values.flatten(2), 1)  # [R, C, h * w]
    border = unit(cells[:, :, ~inner.flatten()].mean(2), 1)
    contrast = 1 - torch.einsum("rcx,rc->rx", cells, border)
    low, high = contrast.amin(1, keepdim=True), contrast.amax(1, keepdim=True)
    scaled = (contrast - low) / (high - low).clamp_min(1e-6)
    # Squared: a prototype should be made of what differs clearly. A flat photo counts everywhere.
    flat = (high - low < _FLAT).to(scaled.dtype)
    return (scaled.square() + flat).unflatten(1, (height, width)).detach()


def centre_bump(values: Tensor) -> Tensor:
    """Return weights `[h, w]` that fall from the centre, `exp(-2 r^2)`, r in half sides.

    Args:
        values: `[R, C, h, w]`.
    """
    height, width = values.shape[2:]
    y, x = (
        (2 * torch.arange(n, dtype=values.dtype, device=values.device) + 1) / n - 1
        for n in (height, width)
    )
    return torch.exp(-(y[:, None].square() + x.square()) / _CENTRE)


def prototypes(maps: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each photo's prototype, level to `[R, D]`: the weighed mean of cells, of unit length.

    Args:
        maps: Projected, level to `[R, D, h, w]`.
        weights: Level to `[R, h, w]`.
    """
    found: dict[str, Tensor] = {}
    for level, values in maps.items():
        share = weights[level] / weights[level].sum((1, 2), keepdim=True).clamp_min(1e-6)
        found[level] = unit((values * share[:, None]).sum((2, 3)))
    return found


def grid_tokens(
    maps: Mapping[str, Tensor], weights: Mapping[str, Tensor], side: int
) -> dict[str, Tensor]:
    """Return a grid of tokens over each photo's object, level to `[R, side * side, D]`.

    Args:
        maps: Projected, level to `[R, D, h, w]`.
        weights: Level to `[R, h, w]`; the object's box holds all cells of at least half the
            greatest share.
        side: Tokens in a row.
    """
    found: dict[str, Tensor] = {}
    for level, values in maps.items():
        boxes = _boxes(weights[level]).to(values.dtype)
        index = torch.arange(len(boxes), device=values.device, dtype=values.dtype)
        rois = torch.cat((index[:, None], boxes), 1)
        cells = roi_align(values, rois, (side, side), 1.0, 2, aligned=True)
        found[level] = cells.flatten(2).transpose(1, 2)
    return found


def _boxes(weights: Tensor) -> Tensor:
    """Return the box xyxy in cells of what counts at least half the greatest, `[R, 4]`."""
    inside = weights >= 0.5 * weights.amax((1, 2), keepdim=True)
    rows, columns = inside.any(2), inside.any(1)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.int().argmax(1)
        return first, line.shape[1] - line.flip(1).int().argmax(1)

    (top, bottom), (left, right) = ends(rows), ends(columns)
    return torch.stack((left, top, right, bottom), 1)


def project_photos(
    projection: Projection, maps: Mapping[str, Tensor], mask: Tensor | None, side: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return prototypes `[R, D]` and tokens `[R, side * side, D]` of photos, by level.

    On a CPU only cells in and around the objects' boxes are projected: nothing else is read.
    """
    weights = foreground_weights(mask, maps)
    if tracing() or any(values.device.type != "cpu" for values in maps.values()):
        projected = projection(maps)
    else:
        projected = {n: _projected(projection, n, maps[n], weights[n]) for n in projection.levels}
    return prototypes(projected, weights), grid_tokens(projected, weights, side)


def _projected(projection: Projection, level: str, values: Tensor, weights: Tensor) -> Tensor:
    """Return `[R, D, h, w]`, zeros where neither prototypes nor tokens look."""
    inside = _near_boxes(weights)
    rows = projection.rows(level, values.movedim(1, -1)[inside])  # [n, D]
    found = rows.new_zeros(*inside.shape, rows.shape[-1])
    found[inside] = rows
    return found.movedim(-1, 1)


def _near_boxes(weights: Tensor) -> Tensor:
    """Return `[R, h, w]` bool, cells in the box of all that counts, or beside it.

    A token is interpolated between cells whose centres lie up to one cell outside.
    """
    counts = weights > 0
    lines = []
    for axis in (2, 1):
        line = counts.any(axis)
        within = (line.cumsum(1) > 0) & (line.flip(1).cumsum(1).flip(1) > 0)
        lines.append(functional.max_pool1d(within.to(weights.dtype)[:, None], 3, 1, 1)[:, 0] > 0)
    return lines[0][:, :, None] & lines[1][:, None]
