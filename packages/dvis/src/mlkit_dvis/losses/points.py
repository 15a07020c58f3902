"""Losses of masks at sampled points, and the class loss that counts "no object" less.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
CVPR 2022, section 3.3; Kirillov et al., "PointRend", CVPR 2020, section 3.1 for the points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.types import Ratio


def point_sample(values: Tensor, points: Tensor) -> Tensor:
    """Return `[N, P]`: maps read at points, bilinear between pixel centres, zero outside.

    Args:
        values: `[N, h, w]`; what is not floating-point is read as 0 and 1 in the points' dtype.
        points: `[N, P, 2]`, or `[1, P, 2]` where all maps share them; x, y, each 0..1 from edge
            to edge of the map.
    """
    if not values.is_floating_point():
        values = values.to(points.dtype)
    grid = (2 * points.to(values.dtype) - 1)[:, :, None]  # [N or 1, P, 1, 2]
    if points.shape[0] == 1:  # maps as channels: the weights of a point are computed once
        return F.grid_sample(values[None], grid, align_corners=False)[0, ..., 0]
    return F.grid_sample(values[:, None], grid, align_corners=False)[:, 0, :, 0]


def random_points(
    count: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return `[1, count, 2]` uniform points, x, y, each 0..1, drawn on the generator's device."""
    drawn = torch.rand(1, count, 2, generator=generator, dtype=dtype, device=generator.device)
    return drawn.to(device)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    count: int,
    generator: torch.Generator,
    oversample: float = 3,
    importance: float = 0.75,
) -> Tensor:
    """Return `[N, count, 2]` points of each mask, most of them where its logit is nearest zero.

    Source: Kirillov et al., "PointRend", CVPR 2020, section 3.1, "Training".

    Args:
        logits: `[N, h, w]`.
        count: Points of a mask.
        generator: Gives all randomness; on the CPU, so that every device sees the same points.
        oversample: Uniform candidates per point.
        importance: Share of the points that are the most uncertain candidates; the others are
            uniform.
    """
    masks, sure = len(logits), round(importance * count)
    drawn = int(count * oversample) + count - sure
    shape = (masks, drawn, 2)
    points = torch.rand(shape, generator=generator, dtype=logits.dtype, device=generator.device)
    points = points.to(logits.device)
    candidates, uniform = points.split((int(count * oversample), count - sure), dim=1)
    if masks == 0:
        return candidates[:, :count]
    nearest = point_sample(logits, candidates).abs().topk(sure, largest=False).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))  # [N, sure, 2]
    return torch.cat([chosen, uniform], 1)


def mask_point_losses(logits: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Dice loss of masks at points, each summed over the masks.

    The cross-entropy is the mean over a mask's points; Dice has one added to both sums.

    Args:
        logits: `[N, h, w]`, before the sigmoid.
        targets: `[N, H, W]`, 0 or 1; its size may differ from that of the logits.
        points: `[N, P, 2]` or `[1, P, 2]`, as in `point_sample`.
    """
    with torch.no_grad():
        truth = point_sample(targets.to(logits.dtype), points)  # [N, P], fractions at edges
    at_points = point_sample(logits, points)
    entropy = F.binary_cross_entropy_with_logits(at_points, truth, reduction="none").mean(1)
    probs = at_points.sigmoid()
    overlap = 2 * (probs * truth).sum(1)
    dice = 1 - (overlap + 1) / (probs.sum(1) + truth.sum(1) + 1)
    return entropy.sum(), dice.sum()


def class_loss(logits: Tensor, targets: Tensor, eos: float = 0.1) -> Ratio:
    """Return the weighted cross-entropy of rows: the sum of weighted terms, over that of weights.

    Args:
        logits: `[R, K + 1]`; the last class is "no object".
        targets: `[R]` class index; K is "no object", a negative one leaves the row out.
        eos: Weight of a row without object; of the others it is one.
    """
    no_object = logits.shape[-1] - 1
    weights = torch.where(targets == no_object, eos, 1.0).to(logits.dtype) * (targets >= 0)
    entropy = F.cross_entropy(logits, targets.clamp_min(0), reduction="none")
    return Ratio((weights * entropy).sum(), weights.sum())
