"""Contrastive proposal encoding: boxes of one class alike, the better they fit the more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Ratio
from mlkit_refdet.features import PairFeatures
from mlkit_refdet.losses.boxes import overlap
from mlkit_refdet.losses.branches import dense_rows, head_and_target
from mlkit_refdet.losses.contrast import contrastive_terms
from mlkit_refdet.losses.projection import LevelProjection, fused_pairs
from mlkit_refdet.losses.regions import region_features
from mlkit_refdet.losses.roles import choose_role
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_refdet.losses.branches import DenseRows

Reweight = Literal["one", "linear", "exp"]


class ProposalContrast(nn.Module):
    """Supervised contrast of the head's own boxes, read from the fused maps of their pair.

    Of each pair the boxes with the highest logits are taken, before suppression, and the true boxes
    beside them, as detectors of two stages do: else nothing fits at the start. A box whose IoU u
    with a true box of the asked class is at least `positive_iou` is of that class, all others are
    background. Boxes with u of at least `min_iou` are anchors, weighted by g(u).

    Source: Sun et al., "FSCE: Few-Shot Object Detection via Contrastive Proposal Encoding", CVPR
    2021, eq. 2 to 4. Unlike eq. 2, and like its authors' code, the mean is over the anchors that
    count: background proposals, here most of all, would only scale the loss down.

    Args:
        inputs: Role to spec.
        on: Role of the fused pairs; None: the only one.
        temperature: What cosines are divided by.
        dim: Of the projection.
        proposals: Boxes of each pair.
        min_iou: From which a box is an anchor.
        positive_iou: From which a box is of the asked class.
        reweight: g(u) of an anchor: 1, u, or exp(u) - 1.
        true_boxes: Whether true boxes are proposals, too.
    """

    output_type, target_type = None, ReferenceTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        *,
        temperature: float = 0.2,
        dim: int = 128,
        proposals: int = 16,
        min_iou: float = 0.7,
        positive_iou: float = 0.5,
        reweight: Reweight = "one",
        true_boxes: bool = True,
    ) -> None:
        super().__init__()
        if temperature <= 0 or proposals < 1 or dim < 1 or not 0 < positive_iou <= min_iou <= 1:
            raise BuildError(
                f"temperature {temperature} must be positive, proposals {proposals} and dim {dim} "
                f"at least 1, 0 < positive_iou {positive_iou} <= min_iou {min_iou} <= 1"
            )
        self.on = choose_role(inputs, on, PairFeatures, "on")
        self.channels, self.strides = dict(inputs[self.on].channels), dict(inputs[self.on].strides)
        self.temperature, self.proposals, self.true_boxes = temperature, proposals, true_boxes
        self.min_iou, self.positive_iou = min_iou, positive_iou
        self.reweight: Reweight = reweight
        self.projection = LevelProjection(self.channels, dim)

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the part "pairs", the mean over anchors that have another box of their class.

        Raises:
            BuildError: The head gives no pairs, or the fusion no maps of them.
        """
        head, target = head_and_target(output, batch)
        rows = dense_rows(output, batch, step, "pairs")
        shape = head.pairs.logits.shape[:2] if head.pairs is not None else (0, 0)
        _, maps = fused_pairs(output, self.on, self.channels, *shape)
        boxes, row, fit = self._proposals(rows)
        parts, _ = region_features(maps, boxes, rows.rows[row], self.strides)
        terms = self.terms(self.projection(parts), rows.classes[row], fit, target.category_ids)
        return {"pairs": Ratio(terms.sum(), float(len(terms)))}

    def terms(self, z: Tensor, classes: Tensor, fit: Tensor, categories: Tensor) -> Tensor:
        """Return the weighted terms of anchors that have another box of their class, `[I']`.

        Args:
            z: `[n, dim]`, unit length.
            classes: `[n]`, the class that was asked where each box was found.
            fit: `[n]`, IoU with the nearest true box of that class.
            categories: `[N]`, of the support classes.
        """
        shown, kind = fit >= self.positive_iou, categories[classes]
        same = (classes[:, None] == classes) & shown[:, None] & shown
        same &= ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        anchors = (fit >= self.min_iou) & same.any(1)
        negatives = (kind[anchors, None] != kind) | ~shown
        logits = z[anchors] @ z.T / self.temperature
        return self._gain(fit[anchors]) * contrastive_terms(logits, same[anchors], negatives)

    def _gain(self, fit: Tensor) -> Tensor:
        gains = {"one": torch.ones_like(fit), "linear": fit, "exp": fit.expm1()}
        return gains[self.reweight]

    @torch.no_grad()
    def _proposals(self, rows: DenseRows) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes `[n, 4]`, their rows `[n]`, and IoU with the nearest true box `[n]`."""
        count = min(self.proposals, rows.logits.shape[1])
        best = rows.logits[..., 0].topk(count, dim=1).indices  # [R, count]
        boxes = rows.boxes_xyxy.take_along_dim(best[..., None], 1)
        real = rows.truth_labels >= 0  # [R, M]
        fits = overlap(boxes[:, :, None], rows.truth_boxes[:, None]).iou * real[:, None]
        fit = fits.amax(2) if real.shape[1] else fits.sum(2)
        row = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(best)
        if not self.true_boxes:
            return boxes.flatten(0, 1), row.flatten(), fit.flatten()
        owner, place = real.nonzero(as_tuple=True)
        return (
            torch.cat([boxes.flatten(0, 1), rows.truth_boxes[owner, place]]),
            torch.cat([row.flatten(), owner]),
            torch.cat([fit.flatten(), fit.new_ones(len(owner))]),
        )
