"""Large frames in overlapping tiles, for objects that are small in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchvision.ops import batched_nms

from mlkit_core.types import BoxPrediction

if TYPE_CHECKING:
    from collections.abc import Sequence

Window = tuple[int, int, int, int]  # left, top, right, bottom, pixels
_EDGE = 3.0  # a box that ends this near to an inner edge is probably cut there
_COVERED = 0.7  # share of a cut box that another one must cover to replace it
_TRUSTED = 0.5  # share of a cut box's score that the other one must have


def windows(height: int, width: int, tile: int, overlap: float) -> list[Window]:
    """Return the whole frame, then tiles that cover it, the last of a row moved inwards.

    Args:
        height: Of the frame, pixels.
        width: Likewise.
        tile: Side of a tile.
        overlap: Least share of a tile that its neighbour covers, too.
    """
    found = [(0, 0, width, height)]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    if len(rows) == len(columns) == 1:
        return found
    return found + [
        (x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns
    ]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def merged(
    predictions: Sequence[BoxPrediction],
    places: Sequence[Window],
    size: tuple[int, int],
    *,
    iou: float = 0.5,
    max_det: int = 100,
) -> BoxPrediction:
    """Return one frame's prediction of those of its windows.

    A box that ends at an edge inside the frame is part of an object: it goes where another window
    has a box of its class that covers it, with at least half its score. The rest is suppressed
    within each class.

    Args:
        predictions: In each window's own pixels.
        places: The windows.
        size: Height and width of the frame.
        iou: Overlap that suppresses.
        max_det: At most so many.
    """
    boxes, scores, labels, cut = [], [], [], []
    for found, (left, top, right, bottom) in zip(predictions, places, strict=True):
        own = found.boxes_xyxy + torch.tensor([left, top, left, top], dtype=torch.float32)
        inner = torch.tensor([left > 0, top > 0, right < size[1], bottom < size[0]])
        edges = torch.tensor([left, top, right, bottom], dtype=torch.float32)
        boxes.append(own)
        scores.append(found.scores)
        labels.append(found.labels)
        cut.append((((own - edges).abs() < _EDGE) & inner).any(1))
    box, score, label, is_cut = (torch.cat(part) for part in (boxes, scores, labels, cut))
    kept = ~(is_cut & _covered(box, score, label, is_cut))
    box, score, label = box[kept], score[kept], label[kept]
    best = batched_nms(box, score, label, iou)[:max_det]
    return BoxPrediction(box[best], score[best], label[best])


def _covered(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, is_cut: torch.Tensor
) -> torch.Tensor:
    """Return which boxes lie mostly within a whole and trusted box of their class, `[M]`."""
    top_left = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (bottom_right - top_left).clamp_min(0).prod(-1)  # [M, M]
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1)
    inside = shared >= _COVERED * area[:, None].clamp_min(1e-6)
    trusted = scores[None] >= _TRUSTED * scores[:, None]
    return (inside & trusted & (labels[:, None] == labels[None]) & ~is_cut[None]).any(1)
