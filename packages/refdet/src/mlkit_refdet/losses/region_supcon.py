"""Supervised contrast of positive anchors on fused maps: own class and prototype against others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Ratio
from mlkit_refdet.features import PairFeatures
from mlkit_refdet.losses.branches import dense_rows, head_and_target
from mlkit_refdet.losses.contrast import contrastive_terms
from mlkit_refdet.losses.projection import LevelProjection, fused_pairs, prototype_width
from mlkit_refdet.losses.regions import cell_features, level_of
from mlkit_refdet.losses.roles import choose_role
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_refdet.losses.branches import DenseRows


class RegionSupCon(nn.Module):
    """Positive anchors of all pairs, on the fused maps, contrasted by class.

    An anchor's positives are its class's prototype and the other positive anchors of that class;
    its negatives the prototypes and positive anchors of other categories, and background anchors of
    the batch. Prototypes go through the same projection, and the anchor's level picks the
    prototype. Anchors without a positive are left out of the mean.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2.

    Args:
        inputs: Role to spec.
        on: Role of the fused pairs; None: the only one.
        temperature: What cosines are divided by.
        dim: Of the projection.
        background: Background anchors that are drawn from all pairs of the batch.
        proto_dim: Width of prototypes; None: as the support role publishes, else as the maps.
    """

    output_type, target_type = None, ReferenceTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        *,
        temperature: float = 0.07,
        dim: int = 128,
        background: int = 256,
        proto_dim: int | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0 or background < 0 or dim < 1:
            raise BuildError(
                f"temperature {temperature} must be positive, background {background} not "
                f"negative, dim {dim} at least 1"
            )
        self.on = choose_role(inputs, on, PairFeatures, "on")
        self.channels = dict(inputs[self.on].channels)
        self.temperature, self.background = temperature, background
        width = prototype_width(inputs, self.on, proto_dim)
        self.projection = LevelProjection(self.channels, dim, width)

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the part "pairs", the mean over positive anchors of all pairs.

        Raises:
            BuildError: The head gives no pairs, or the fusion no maps or prototypes of them.
        """
        head, target = head_and_target(output, batch)
        rows = dense_rows(output, batch, step, "pairs")
        shape = head.pairs.logits.shape[:2] if head.pairs is not None else (0, 0)
        fused, maps = fused_pairs(output, self.on, self.channels, *shape)
        if list(fused.class_protos) != list(self.channels):
            got = ", ".join(fused.class_protos) or "none"
            raise BuildError(f"role {self.on!r}: needs `class_protos` of every level, got {got}")
        found, drawn = rows.assignment, self._background(rows, step)
        pair = rows.rows[torch.cat([found.rows, drawn[0]])]
        parts = cell_features(maps, pair, torch.cat([found.anchors, drawn[1]]))
        z, level = self.projection(parts), level_of(parts)
        own = self.projection.of_prototypes(fused.class_protos)[level[: len(found.rows)]]
        classes = rows.classes[found.rows]
        terms = self.terms(z, own, classes, target.category_ids)
        return {"pairs": Ratio(terms.sum(), float(len(terms)))}

    def terms(self, z: Tensor, own: Tensor, classes: Tensor, categories: Tensor) -> Tensor:
        """Return the terms of anchors that have a positive, `[I']`.

        Args:
            z: `[I + J, dim]`, positive anchors, then background.
            own: `[I, N, dim]`, all prototypes at each positive anchor's level.
            classes: `[I]`, support class of each positive anchor.
            categories: `[N]`.
        """
        count, every = len(classes), torch.arange(len(categories), device=z.device)
        anchors, kind = z[:count], categories[classes]
        to_prototypes = (own @ anchors[..., None])[..., 0]  # [I, N]
        logits = torch.cat([anchors @ z.T, to_prototypes], 1) / self.temperature
        same = classes[:, None] == classes
        alone = same & ~torch.eye(count, dtype=torch.bool, device=z.device)
        empty = torch.zeros_like(logits[:, count : len(z)], dtype=torch.bool)
        positives = torch.cat([alone, empty, classes[:, None] == every], 1)
        negatives = [kind[:, None] != kind, ~empty, kind[:, None] != categories]
        return contrastive_terms(logits, positives, torch.cat(negatives, 1))

    def _background(self, rows: DenseRows, step: Step) -> tuple[Tensor, Tensor]:
        """Return row and anchor of cells drawn at random that no box was assigned to."""
        foreground = rows.assignment.foreground.flatten()
        if not len(foreground):
            return foreground.long(), foreground.long()
        drawn = torch.randint(len(foreground), (self.background,), generator=step.generator)
        drawn = drawn.to(foreground.device)
        drawn = drawn[~foreground[drawn]]
        anchors = rows.assignment.foreground.shape[1]
        return drawn // anchors, drawn % anchors
