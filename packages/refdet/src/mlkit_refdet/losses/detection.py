"""Losses of dense detections: boxes, classes of anchors, distribution of distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_core.types import Ratio
from mlkit_refdet.head.geometry import boxes_to_distances
from mlkit_refdet.losses.boxes import RunningMean, ciou, overlap, wiou_v1, wiou_v2, wiou_v3
from mlkit_refdet.losses.branches import live_branches
from mlkit_refdet.results import BINS, ReferenceLogits
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from mlkit_core.types import Batch, ModelOutput, Step
    from mlkit_refdet.losses.branches import Branch, DenseRows

BoxVariant = Literal["wiou_v3", "wiou_v2", "wiou_v1", "ciou"]


def anchor_bce(rows: DenseRows) -> Tensor:
    """Return the cross-entropy of all anchors and classes, summed; background learns 0.

    A positive anchor learns its target score from the assignment for its box's class.
    """
    found = rows.assignment
    targets = torch.zeros_like(rows.logits)
    targets[found.rows, found.anchors, _labels(rows)] = found.quality.to(targets.dtype)
    return F.binary_cross_entropy_with_logits(rows.logits, targets, reduction="sum")


def positives_bce(rows: DenseRows) -> Tensor:
    """Return the cross-entropy of positive anchors alone, summed; each learns 1 for its class."""
    found = rows.assignment
    logits = rows.logits[found.rows, found.anchors]  # [P, C]
    targets = F.one_hot(_labels(rows), logits.shape[-1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def distribution_focal(distances: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of a distance's two nearest bins, mean over the four sides, `[P]`.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 6.

    Args:
        distances: `[P, 4 * BINS]`, logits, side by side: left, top, right, bottom.
        targets: `[P, 4]`, true distances in bins, 0 to below BINS - 1.
    """
    logs = distances.unflatten(-1, (4, BINS)).log_softmax(-1)
    below = targets.floor().long().clamp(0, BINS - 2)
    share = targets - below  # of the upper bin
    low, high = (logs.gather(-1, (below + up)[..., None])[..., 0] for up in (0, 1))
    return -((1 - share) * low + share * high).mean(-1)


class AnchorBce(nn.Module):
    """Cross-entropy of every anchor and class, over the sum of target scores.

    Images without an object count in full: they are where false alarms are unlearned.

    Args:
        standard_weight: Of the standard branch; None: 1 where the head has it.
        pairs_weight: Of the pairs; None: 1 where the head has them.
        positives_only: Only positive anchors count, each with target 1, over their number. WARNING:
            no anchor then learns that it is background, and "always 1" is the optimum; it is here
            as an experiment's arm, to measure what that costs.
    """

    output_type, target_type = ReferenceLogits, ReferenceTarget

    def __init__(
        self,
        standard_weight: float | None = None,
        pairs_weight: float | None = None,
        positives_only: bool = False,
    ) -> None:
        super().__init__()
        self.weights = branch_weights(standard_weight, pairs_weight)
        self.positives_only = positives_only

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return one part for each branch."""
        parts: dict[str, Tensor | Ratio] = {}
        for name, weight, rows in live_branches(output, batch, step, self.weights):
            if self.positives_only:
                count = float(len(rows.assignment.rows))
                parts[name] = Ratio(positives_bce(rows) * weight, max(count, 1.0))
            else:
                parts[name] = Ratio(anchor_bce(rows) * weight, rows.assignment.normaliser)
        return parts


class BoxIou(nn.Module):
    """Overlap loss of positive anchors' boxes, weighted by target score, over their sum.

    The running mean that v2 and v3 compare with is kept for each branch, counts positive anchors
    alike, takes in a batch before that batch is compared, starts at the first batch's mean (not at
    1, from which a momentum of 0.01 needs hundreds of steps), and rests in evaluation.

    Args:
        variant: Wise-IoU by version, or complete IoU.
        gamma: Exponent of v2's focus.
        alpha: Base of v3's fall.
        delta: Outlier degree whose gain in v3 is 1.
        momentum: Share of a batch in the running mean.
        standard_weight: Of the standard branch; None: 1 where the head has it.
        pairs_weight: Of the pairs; None: 1 where the head has them.
    """

    output_type, target_type = ReferenceLogits, ReferenceTarget

    def __init__(
        self,
        variant: BoxVariant = "wiou_v3",
        *,
        gamma: float = 0.5,
        alpha: float = 1.9,
        delta: float = 3.0,
        momentum: float = 0.01,
        standard_weight: float | None = None,
        pairs_weight: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1 or alpha <= 1 or delta <= 0 or gamma < 0:
            raise BuildError(
                f"momentum {momentum} must be within 0..1, alpha {alpha} above 1, delta {delta} "
                f"above 0, gamma {gamma} not negative"
            )
        self.variant: BoxVariant = variant
        self.gamma, self.alpha, self.delta = gamma, alpha, delta
        self.weights = branch_weights(standard_weight, pairs_weight)
        self.means = nn.ModuleDict({name: RunningMean(momentum) for name in self.weights})

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return one part for each branch."""
        parts: dict[str, Tensor | Ratio] = {}
        for name, weight, rows in live_branches(output, batch, step, self.weights):
            found = rows.assignment
            truth = rows.truth_boxes[found.rows, found.truth]
            loss = self.per_box(rows.positive_boxes(), truth, name)
            parts[name] = Ratio((loss * found.quality).sum() * weight, found.normaliser)
        return parts

    def per_box(self, boxes_xyxy: Tensor, truth_xyxy: Tensor, branch: Branch) -> Tensor:
        """Return each positive anchor's loss, `[P]`; in training the running mean moves."""
        if self.variant == "ciou":
            return 1 - ciou(boxes_xyxy, truth_xyxy)
        pair = overlap(boxes_xyxy, truth_xyxy)
        if self.variant == "wiou_v1" or not len(boxes_xyxy):
            return wiou_v1(pair)
        mean = self._mean(1 - pair.iou.detach().mean(), branch)
        if self.variant == "wiou_v2":
            return wiou_v2(pair, mean, self.gamma)
        return wiou_v3(pair, mean, self.alpha, self.delta)

    def _mean(self, batch_mean: Tensor, branch: Branch) -> Tensor:
        running = cast("RunningMean", self.means[branch])
        if self.training:
            running.update(batch_mean)
        return running.mean(batch_mean)


class BoxDfl(nn.Module):
    """Distribution focal loss of positive anchors' distances, weighted by target score.

    Args:
        standard_weight: Of the standard branch; None: 1 where the head has it.
        pairs_weight: Of the pairs; None: 1 where the head has them.
    """

    output_type, target_type = ReferenceLogits, ReferenceTarget

    def __init__(
        self, standard_weight: float | None = None, pairs_weight: float | None = None
    ) -> None:
        super().__init__()
        self.weights = branch_weights(standard_weight, pairs_weight)

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return one part for each branch."""
        parts: dict[str, Tensor | Ratio] = {}
        for name, weight, rows in live_branches(output, batch, step, self.weights):
            found = rows.assignment
            truth = rows.truth_boxes[found.rows, found.truth]
            points, strides = rows.points[found.anchors], rows.strides[found.anchors]
            targets = boxes_to_distances(truth, points, strides, BINS)
            loss = distribution_focal(rows.distances[found.rows, found.anchors], targets)
            parts[name] = Ratio((loss * found.quality).sum() * weight, found.normaliser)
        return parts


def branch_weights(standard: float | None, pairs: float | None) -> dict[Branch, float | None]:
    """Return the branches' weights.

    Raises:
        BuildError: One is negative, or both are 0.
    """
    if min(standard or 0, pairs or 0) < 0 or (standard == 0 and pairs == 0):
        raise BuildError(
            f"standard_weight {standard} and pairs_weight {pairs} must not be negative, nor both 0"
        )
    return {"standard": standard, "pairs": pairs}


def _labels(rows: DenseRows) -> Tensor:
    """Return the column of each positive anchor's box, `[P]`."""
    return rows.truth_labels[rows.assignment.rows, rows.assignment.truth]
