"""From raw output to detections: decoding, non-maximum suppression, masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from mlkit_cluster.images.letterbox import clip_to_content, to_original
from mlkit_cluster.kernel.masks import encode_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.kernel.raw import RawOutput
    from mlkit_core.types import Letterbox

MIN_SIDE = 1e-3  # pixels; a thinner box is no detection


@dataclass(frozen=True)
class Detections:
    """One image's detections, by falling confidence.

    Args:
        boxes_input: `[n, 4]` float32, xyxy, input pixels.
        boxes: `[n, 4]` float32, xyxy, original pixels.
        scores: `[n]` float32, 0..1.
        labels: `[n]` int32.
        masks: One blob for each at S / 4, cropped to its box; None for a detector without masks.
    """

    boxes_input: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[bytes, ...] | None = None

    def where(self, keep: np.ndarray) -> Detections:
        """Return the detections for which `keep` (`[n]` bool) holds."""
        masks = self.masks
        return Detections(
            boxes_input=self.boxes_input[keep],
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            masks=None if masks is None else tuple(masks[i] for i in np.flatnonzero(keep)),
        )


def anchor_centres(image_size: int, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return centres `[A, 2]` (x, y) and strides `[A]` of all anchors, input pixels."""
    centres, steps = [], []
    for stride in strides:
        side = image_size // stride
        middle = (torch.arange(side, dtype=torch.float32) + 0.5) * stride
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centres.append(torch.stack([x, y], -1).view(-1, 2))
        steps.append(torch.full((side * side,), float(stride)))
    return torch.cat(centres), torch.cat(steps)


def decode_boxes(
    boxes: Tensor, image_size: int, strides: Sequence[int], bins: Tensor | None = None
) -> Tensor:
    """Return xyxy boxes `[B, A, 4]` in input pixels from the logits of their sides' distances.

    A side's distance is the mean of its bins' values under their softmax (Li et al., "Generalized
    Focal Loss", NeurIPS 2020, eq. 6); with a single bin it is the value itself.

    Args:
        boxes: `[B, 4 * reg_max, A]`.
        image_size: Side of the input, pixels.
        strides: Of the levels, fine to coarse.
        bins: `[reg_max]`, their values in strides; None: 0, 1, 2, …
    """
    batch, channels, anchors = boxes.shape
    sides = boxes.view(batch, 4, channels // 4, anchors)
    if channels > 4:
        values = torch.arange(channels // 4) if bins is None else bins
        sides = torch.einsum("bska,k->bsa", sides.softmax(2), values.to(boxes))
    else:
        sides = sides[:, :, 0]
    centres, steps = (t.to(boxes.device) for t in anchor_centres(image_size, strides))
    reach = sides.transpose(1, 2) * steps[:, None]  # [B, A, 4]
    return torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], -1)


@torch.inference_mode()
def detect(
    raw: RawOutput,
    image_size: int,
    strides: Sequence[int],
    *,
    conf: float,
    iou: float,
    max_det: int,
    bins: Tensor | None = None,
) -> list[Detections]:
    """Return each image's detections before they are clipped to the image.

    Every anchor speaks for its best class alone; boxes suppress boxes of their own class.

    Args:
        raw: Of any batch; its rows do not influence each other.
        image_size: Side of the input, pixels.
        strides: Of the levels.
        conf: Detections must be more confident than this.
        iou: A box that overlaps a better one of its class by more is dropped.
        max_det: Most detections of an image.
        bins: As `decode_boxes` takes them.
    """
    found: list[Detections] = []
    for index in range(raw.scores.shape[0]):
        row = raw.row(index).cpu()
        scores, labels = row.scores[0].float().sigmoid().max(0)  # [A]
        chosen = (scores > conf).nonzero()[:, 0]
        order = chosen[scores[chosen].argsort(descending=True, stable=True)]
        boxes = decode_boxes(row.boxes.float(), image_size, strides, bins)[0, order]
        # Sorted once, so that equal scores keep the anchors' order whatever the suppression does.
        kept = batched_nms(boxes, scores[order], labels[order], iou).sort().values[:max_det]
        anchors = order[kept]
        found.append(
            Detections(
                boxes_input=boxes[kept].numpy(),
                boxes=boxes[kept].numpy(),
                scores=scores[anchors].numpy(),
                labels=labels[anchors].numpy().astype(np.int32),
                masks=_masks(row, anchors, boxes[kept], image_size),
            )
        )
    return found


def _masks(
    row: RawOutput, anchors: Tensor, boxes: Tensor, image_size: int
) -> tuple[bytes, ...] | None:
    if row.coefs is None or row.protos is None:
        return None
    protos = row.protos[0].float()  # [M, h, w]
    logits = torch.einsum("ma,mhw->ahw", row.coefs[0, :, anchors].float(), protos)
    inside = _crop(boxes * (protos.shape[-1] / image_size), *protos.shape[1:])
    return tuple(encode_mask(mask) for mask in ((logits > 0) & inside).numpy())


def _crop(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return `[n, h, w]` bool: cells whose index lies in the box, its far sides excluded."""
    x, y = torch.arange(width)[None], torch.arange(height)[None]
    x1, y1, x2, y2 = (side[:, None] for side in boxes.unbind(1))
    columns, rows = (x >= x1) & (x < x2), (y >= y1) & (y < y2)
    return rows[:, :, None] & columns[:, None, :]


def place(found: Detections, box: Letterbox, size: tuple[int, int]) -> Detections:
    """Return detections clipped to the image, in both frames; what has no extent is dropped.

    Args:
        found: In input pixels.
        box: How the original became the input.
        size: Height and width of the original, pixels.
    """
    clipped = clip_to_content(found.boxes_input, box)
    sides = np.minimum(*(clipped[:, 2:] - clipped[:, :2]).T) if len(clipped) else np.zeros(0)
    placed = replace(found, boxes_input=clipped, boxes=to_original(clipped, box, size))
    return placed.where(sides > MIN_SIDE)
