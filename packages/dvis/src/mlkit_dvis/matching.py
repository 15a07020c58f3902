"""Which query answers for which instance: costs at points, and the best assignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError, TrainingError
from mlkit_dvis.losses.points import point_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

Weights = tuple[float, float, float]
"""Worth of class, cross-entropy and Dice in the cost."""


@torch.no_grad()
def match_cost(
    logits: Tensor,
    masks: Tensor,
    labels: Tensor,
    target_masks: Tensor,
    points: Tensor,
    *,
    weights: Weights = (2.0, 5.0, 5.0),
) -> Tensor:
    """Return what it costs that a query stands for an instance, `[Q, M]`, without gradient.

    Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
    CVPR 2022, section 3.3.

    Args:
        logits: `[Q, K + 1]`; the last class is "no object".
        masks: `[Q, h, w]` logits; of a clip `[Q, T, h, w]`, frames joined along the height.
        labels: `[M]`, class index.
        target_masks: `[M, H, W]`, 0 or 1; of a clip `[M, T, H, W]`.
        points: `[1, P, 2]`, shared by all masks, x, y, each 0..1 of the (joined) map.
        weights: Of the class's probability, the cross-entropy and Dice.

    Raises:
        BuildError: Masks and target masks are not both of a frame or both of a clip.
    """
    if masks.ndim != target_masks.ndim or masks.ndim not in (3, 4):
        raise BuildError(
            f"match cost: masks {tuple(masks.shape)} and target masks "
            f"{tuple(target_masks.shape)} must both be [N, h, w] or [N, T, h, w]"
        )
    if masks.ndim == 4:
        masks, target_masks = masks.flatten(1, 2), target_masks.flatten(1, 2)
    truth = point_sample(target_masks.to(masks.dtype), points)  # [M, P]
    return point_cost(logits, point_sample(masks, points), labels, truth, weights=weights)


@torch.no_grad()
def point_cost(
    logits: Tensor,
    at_points: Tensor,
    labels: Tensor,
    truth: Tensor,
    *,
    weights: Weights = (2.0, 5.0, 5.0),
) -> Tensor:
    """Return `match_cost` of masks that are sampled already, `[Q, M]`.

    Args:
        logits: `[Q, K + 1]`.
        at_points: `[Q, P]` mask logits.
        labels: `[M]`, class index.
        truth: `[M, P]`, 0..1.
        weights: Of the class's probability, the cross-entropy and Dice.
    """
    worth_class, worth_mask, worth_dice = weights
    no_class = -logits.softmax(-1)[:, labels]  # [Q, M]
    # softplus(x) - x * t is the cross-entropy; only its second term depends on the pair.
    entropy = F.softplus(at_points).mean(1)[:, None] - at_points @ truth.T / truth.shape[1]
    probs = at_points.sigmoid()
    total = probs.sum(1)[:, None] + truth.sum(1)
    dice = 1 - (2 * (probs @ truth.T) + 1) / (total + 1)
    return worth_class * no_class + worth_mask * entropy + worth_dice * dice


def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cheapest one-to-one assignment, `(rows, cols)`, on the cost's device.

    Args:
        cost: `[Q, M]`; the smaller side is assigned whole, rows ascend.

    Raises:
        TrainingError: A cost is not finite.
    """
    rows, cols = hungarian_many([cost])[0]
    return rows.to(cost.device), cols.to(cost.device)


def hungarian_many(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return `hungarian` of each matrix, on the CPU; all costs leave the device at once.

    Raises:
        TrainingError: A cost is not finite.
    """
    if not costs:
        return []
    flat = torch.cat([cost.detach().flatten() for cost in costs]).cpu()
    broken = int((~flat.isfinite()).sum())
    if broken:
        raise TrainingError(
            f"matching: {broken} of {flat.numel()} costs are not finite",
            hint="class or mask logits are NaN or infinite: lower the learning rate",
        )
    parts = flat.split([cost.numel() for cost in costs])
    found = [
        linear_sum_assignment(values.view(cost.shape).numpy())
        for cost, values in zip(costs, parts, strict=True)
    ]
    return [(torch.as_tensor(rows), torch.as_tensor(cols)) for rows, cols in found]
