"""Mask losses of the positives of one raw output by torch alone, on any device.

The sums are those of `fused_masks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

if TYPE_CHECKING:
    from mlkit_cluster.kernel.crops import MaskCrops
    from mlkit_cluster.kernel.rows import Row

_ROOM = 1 << 21  # cells of a chunk of anchors


def mask_losses(row: Row, crops: MaskCrops, anchor: Tensor, target: Tensor) -> np.ndarray:
    """Return the mask loss of each positive, `[P]` float64.

    Args:
        row: With coefficients and prototypes.
        crops: Of all targets.
        anchor: `[P]`.
        target: `[P]`, places in the table.
    """
    assert row.coefs is not None
    unique, local = target.unique(return_inverse=True)
    inside = _proto_sums(row, crops, unique.cpu().numpy())[local]  # [P, M]
    anchors, use = anchor.unique(return_inverse=True)
    in_mask = (row.coefs[anchor].to(inside.dtype) * inside).sum(1)
    boxes = torch.from_numpy(crops.boxes[target.cpu().numpy()]).to(anchor.device)
    sums = _soft_sums(row, anchors, use, boxes) - in_mask
    return sums.cpu().double().numpy() * crops.scales[target.cpu().numpy()]


def _proto_sums(row: Row, crops: MaskCrops, targets: np.ndarray) -> Tensor:
    """Return `[T, M]`: the prototypes' sums over the targets' masks within their crops."""
    sums = row.proto_sums
    begins, ends = crops.starts[targets], crops.starts[targets + 1]
    counts = ends - begins
    places = np.repeat(ends - counts.cumsum(), counts) + np.arange(counts.sum())
    runs = torch.from_numpy(crops.runs[places]).to(sums.device)
    owner = torch.from_numpy(np.repeat(np.arange(len(targets)), counts)).to(sums.device)
    total = torch.zeros(len(targets), sums.shape[1], dtype=sums.dtype, device=sums.device)
    return total.index_add_(0, owner, sums[runs[:, 1]] - sums[runs[:, 0]])


def _soft_sums(row: Row, anchors: Tensor, use: Tensor, boxes: Tensor) -> Tensor:
    """Return `[P]`: sums of softplus over crops, by sums over all cells above and left of each.

    Args:
        row: With coefficients and prototypes.
        anchors: `[U]`, every anchor once.
        use: `[P]`, each positive's place in `anchors`.
        boxes: `[P, 4]`: x0, x1, y0, y1 of its crop.
    """
    assert row.protos is not None
    assert row.coefs is not None
    side = row.protos.shape[1]
    sums = torch.zeros(len(use), dtype=row.proto_sums.dtype, device=use.device)
    step = max(1, _ROOM // side**2)
    for first in range(0, len(anchors), step):
        logits = row.coefs[anchors[first : first + step]] @ row.protos.flatten(1)
        cells = softplus(logits).view(-1, side, side).to(sums.dtype)
        area = pad(cells.cumsum(1).cumsum(2), (1, 0, 1, 0))  # [u, h + 1, w + 1]
        mine = ((use >= first) & (use < first + step)).nonzero()[:, 0]
        at, (x0, x1, y0, y1) = use[mine] - first, boxes[mine].unbind(1)
        outer = area[at, y1, x1] - area[at, y0, x1]
        found = outer - (area[at, y1, x0] - area[at, y0, x0])
        sums[mine] = torch.where((x1 > x0) & (y1 > y0), found, 0)
    return sums
