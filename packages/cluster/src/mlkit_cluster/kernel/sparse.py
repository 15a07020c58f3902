"""Pair losses by torch alone, on any device: the candidates as lists, the selection as torch's own.

Only anchors inside a target are computed. Metrics are then scattered to `[T, A]`, so that the
selection is `torch.topk` on the very values that the criterion gives it, ties included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mlkit_cluster.kernel.rows import TOP
from mlkit_cluster.kernel.sparse_masks import mask_losses
from mlkit_cluster.kernel.table import EPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.kernel.grid import Grid
    from mlkit_cluster.kernel.rows import Row
    from mlkit_cluster.kernel.table import TargetTable

_EPS = float(EPS)
_ROOM = 1 << 19  # metrics of a chunk of images: 2 MiB, a cache's size


@dataclass(frozen=True)
class _Chunk:
    """Targets of some images: their places in the table, their images, and each image's first."""

    targets: np.ndarray  # [T]
    images: Tensor  # [T]
    firsts: Tensor  # [K]
    labels: Tensor  # [T]
    boxes: Tensor  # [T, 6]
    scaled: Tensor  # [T, L, 6]


@dataclass(frozen=True)
class _Positives:
    """Positive anchors by image: `[P]` each."""

    target: Tensor
    anchor: Tensor
    weight: Tensor
    image: Tensor


@torch.no_grad()
def sparse_losses(
    row: Row, table: TargetTable, columns: np.ndarray, *, with_masks: bool
) -> np.ndarray:
    """Return losses `[K, 6]` float64: box, cls, dfl, seg, positives, sum of soft scores.

    Args:
        row: On any device.
        table: Of the same grid.
        columns: `[K]` int64.
        with_masks: Whether seg is wanted; otherwise it is 0.
    """
    losses = np.zeros((len(columns), 6))
    losses[:, 1] = row.background
    for part in _parts(table, columns, row.grid.num_anchors):
        chunk = _chunk(table, columns[part], row.planes.device)
        positives = _assign(row, table, chunk)
        sums = _sums(row, chunk, positives, part.stop - part.start)
        norm = np.maximum(sums[3], 1.0)
        losses[part, 0], losses[part, 2] = sums[0] / norm, sums[2] / norm
        losses[part, 1] = (row.background - sums[1]) / norm
        losses[part, 4], losses[part, 5] = sums[4], sums[3]
        if with_masks and table.crops is not None:
            targets = torch.from_numpy(chunk.targets).to(positives.target.device)
            each = mask_losses(row, table.crops, positives.anchor, targets[positives.target])
            image = positives.image.cpu().numpy()
            totals = np.bincount(image, each, part.stop - part.start)
            losses[part, 3] = totals / np.maximum(sums[4], 1)
    return losses


def _parts(table: TargetTable, columns: np.ndarray, anchors: int) -> Iterator[slice]:
    """Yield runs of columns that have targets enough to fill the room, and one column at least."""
    counts = table.starts[columns + 1] - table.starts[columns]
    most = max(1, _ROOM // anchors)
    first, held = 0, 0
    for index, count in enumerate(counts.tolist()):
        if held and held + count > most:
            yield slice(first, index)
            first, held = index, 0
        held += count
    if held:
        yield slice(first, len(columns))


def _chunk(table: TargetTable, columns: np.ndarray, device: torch.device) -> _Chunk:
    begins = table.starts[columns]
    counts = table.starts[columns + 1] - begins
    ends = counts.cumsum()
    targets = np.repeat(begins - ends + counts, counts) + np.arange(ends[-1])
    images = np.repeat(np.arange(len(columns)), counts)
    places = torch.from_numpy(targets)
    tensors = [torch.from_numpy(values)[places] for values in (table.boxes, table.scaled)]
    boxes, scaled = (values.to(device) for values in tensors)
    return _Chunk(
        targets=targets,
        images=torch.from_numpy(images).to(device),
        firsts=torch.from_numpy(ends - counts).to(device),
        labels=torch.from_numpy(table.labels)[places].long().to(device),
        boxes=boxes,
        scaled=scaled,
    )


def _candidates(cells: np.ndarray, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return targets and anchors of all pairs in which the anchor lies inside the target."""
    x0, x1, y0, y1 = torch.from_numpy(cells).long().to(device).flatten(0, 1).unbind(1)  # [T * L]
    sides = torch.tensor(grid.sides, device=device).repeat(len(cells))
    offsets = torch.tensor(grid.offsets, device=device).repeat(len(cells))
    wide = x1 - x0
    counts = wide * (y1 - y0)
    source = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    step = torch.arange(len(source), device=device) - (counts.cumsum(0) - counts)[source]
    y = torch.div(step, wide[source], rounding_mode="floor")
    x = step - y * wide[source]
    corner = offsets + y0 * sides + x0
    anchors = corner[source] + y * sides[source] + x
    return torch.div(source, len(grid.sides), rounding_mode="floor"), anchors


def _overlap(targets: Tensor, anchors: Tensor) -> Tensor:
    """Return the complete IoU of boxes `[6, n]` given as corners, area and angle.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, eqs. 7 to 11. The order of operations is
    the criterion's.
    """
    x1, y1, x2, y2, area, angle = targets
    a1, b1, a2, b2, own_area, own_angle = anchors
    wide = (torch.minimum(x2, a2) - torch.maximum(x1, a1)).clamp_(0)
    shared = wide * (torch.minimum(y2, b2) - torch.maximum(y1, b1)).clamp_(0)
    iou = shared / (area + own_area - shared + _EPS)
    hull_x = torch.maximum(x2, a2) - torch.minimum(x1, a1)
    hull_y = torch.maximum(y2, b2) - torch.minimum(y1, b1)
    away = ((a1 + a2 - x1 - x2) ** 2 + (b1 + b2 - y1 - y2) ** 2) / 4
    shape = (own_angle - angle) ** 2 * (4 / math.pi**2)
    trade = shape / (1 - iou + shape + _EPS)
    return iou - (away / (hull_x**2 + hull_y**2 + _EPS) + shape * trade)


def _assign(row: Row, table: TargetTable, chunk: _Chunk) -> _Positives:
    """Return the positives of all images of a chunk, ordered by image and anchor."""
    grid, device = row.grid, row.planes.device
    total = grid.num_anchors
    target, anchor = _candidates(table.cells[chunk.targets], grid, device)
    place = target * total + anchor
    overlaps = _overlap(chunk.boxes.T[:, target], row.planes[:, anchor]).clamp_(0)
    overlap, metric = torch.zeros(2, len(chunk.targets) * total, device=device)
    inside = torch.zeros(len(chunk.targets) * total, dtype=torch.bool, device=device)
    overlap[place], inside[place] = overlaps, True
    metric[place] = row.roots[chunk.labels[target] * total + anchor] * overlaps.pow(6)
    top = metric.view(-1, total).topk(min(TOP, total), dim=1).indices
    picks = (top + torch.arange(len(top), device=device)[:, None] * total).flatten()
    picks = picks[inside[picks]]
    owner = torch.div(picks, total, rounding_mode="floor")
    owned, anchors = _settled(
        chunk, (owner, picks - owner * total), (target, anchor), overlaps, total
    )
    chosen = owned * total + anchors
    weight = _soft_scores(metric[chosen], overlap[chosen], owned, len(chunk.targets))
    return _Positives(owned, anchors, weight, chunk.images[owned])


def _settled(
    chunk: _Chunk,
    picks: tuple[Tensor, Tensor],
    candidates: tuple[Tensor, Tensor],
    overlaps: Tensor,
    total: int,
) -> tuple[Tensor, Tensor]:
    """Return target and anchor of each positive; an anchor has one target, the most overlapped."""

    def image_of(key: Tensor) -> Tensor:
        return torch.div(key, total, rounding_mode="floor")

    keys, place, claims = (chunk.images[picks[0]] * total + picks[1]).unique(
        return_inverse=True, return_counts=True
    )
    owner = torch.empty_like(keys)
    owner[place] = picks[0]  # that of an anchor picked once; others follow
    contested = torch.zeros(len(chunk.firsts) * total, dtype=torch.long, device=keys.device)
    contested[keys] = torch.where(claims > 1, torch.arange(len(keys), device=keys.device) + 1, 0)
    rival = contested[chunk.images[candidates[0]] * total + candidates[1]] - 1
    at, holder, overlap = (values[rival >= 0] for values in (rival, candidates[0], overlaps))
    best = torch.zeros(len(keys), device=keys.device).scatter_reduce_(0, at, overlap, "amax")
    # The first of equals; where all are 0, targets that the anchor is not inside are equal too.
    wins = (overlap == best[at]) & (overlap > 0)
    first = torch.where(claims > 1, chunk.firsts[image_of(keys)] + len(chunk.targets), owner)
    first.scatter_reduce_(0, at[wins], holder[wins], "amin")
    first = torch.where(first < len(chunk.targets), first, first - len(chunk.targets))
    return first, keys - image_of(keys) * total


def _soft_scores(metric: Tensor, overlap: Tensor, target: Tensor, count: int) -> Tensor:
    """Return each positive's soft score, `[P]`."""
    most, widest = torch.zeros(2, count, device=metric.device)
    most.scatter_reduce_(0, target, metric, "amax")
    widest.scatter_reduce_(0, target, overlap, "amax")
    return metric * widest[target] / (most[target] + 1e-9)


def _sums(row: Row, chunk: _Chunk, positives: _Positives, images: int) -> list[np.ndarray]:
    """Return each image's sums of box, of what cls lacks, of dfl and of soft scores, and counts."""
    anchor, target = positives.anchor, positives.target
    edges = torch.tensor(row.grid.offsets[1:], device=anchor.device)
    level = torch.bucketize(anchor, edges, right=True)
    boxes, records = chunk.scaled[target, level].T, row.records[anchor].T
    box = 1 - _overlap(boxes, records[:6])
    cls = row.logits[chunk.labels[target], anchor]
    reach = torch.stack([*(records[6:] - boxes[:2]), *(boxes[2:4] - records[6:])], 1)  # [P, 4]
    dfl = _distances(row.log_probs[anchor], reach)
    terms = torch.stack([box, cls, dfl, torch.ones_like(box)]) * positives.weight
    # Summed on the CPU: in one order, in float64, which not every device has.
    image = positives.image.cpu().numpy()
    sums = [np.bincount(image, term, images) for term in terms.cpu().double().numpy()]
    return [*sums, np.bincount(image, minlength=images)]


def _distances(log_probs: Tensor, reach: Tensor) -> Tensor:
    """Return the distribution focal loss `[P]` of distances `[P, 4]`, the mean of four sides.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 6.
    """
    reach = reach.clamp(0, log_probs.shape[2] - 1 - 0.01)
    lower = reach.long()
    to_upper = lower + 1 - reach
    near = log_probs.gather(2, lower[:, :, None])[:, :, 0]
    far = log_probs.gather(2, lower[:, :, None] + 1)[:, :, 0]
    return -(near * to_upper + far * (1 - to_upper)).mean(1)
