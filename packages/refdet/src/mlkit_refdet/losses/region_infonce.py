"""InfoNCE of regions and prototypes: which object is it, among all that training knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Ratio
from mlkit_refdet.features import QueryFeatures, SupportFeatures
from mlkit_refdet.losses.contrast import contrastive_terms
from mlkit_refdet.losses.regions import hardest_locations
from mlkit_refdet.losses.roles import choose_role, regions
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_refdet.losses.roles import Regions
    from mlkit_refdet.prototypes import Aggregate


class RegionInfoNce(nn.Module):
    """Contrast of every object's region with the prototypes of all support classes, and back.

    The support may hold more classes than are asked of the images: each of them is a negative.
    Regions are read before fusion, and every comparison takes the prototype of the region's level.

    - "region": a region must be most like its own class's prototype.
    - "prototype": a prototype must be more like its region than like regions of other classes and
      the most similar cells of each background image.

    Classes of one category are no negatives of each other, nor are regions of one class.

    Source: van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive
    Coding", arXiv:1807.03748, eq. 4; both directions as in Radford et al., "CLIP", ICML 2021.

    Args:
        inputs: Role to spec.
        query: Role of query images; None: the only one.
        support: Role of reference photos; None: the only one.
        temperature: What cosines are divided by.
        hardest: Cells of each background image that are negatives; 0: none.
        aggregate: How a class's shots become one prototype.
    """

    output_type, target_type = None, ReferenceTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        query: Role | None = None,
        support: Role | None = None,
        *,
        temperature: float = 0.1,
        hardest: int = 10,
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__()
        if temperature <= 0 or hardest < 0:
            raise BuildError(
                f"temperature {temperature} must be positive, hardest {hardest} not negative"
            )
        self.query = choose_role(inputs, query, QueryFeatures, "query")
        self.support = choose_role(inputs, support, SupportFeatures, "support")
        self.strides = dict(inputs[self.query].strides)
        self.temperature, self.hardest = temperature, hardest
        self.aggregate: Aggregate = aggregate

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the parts "region" and "prototype", means over objects.

        A batch without objects, as one of background images alone, counts nothing.

        Raises:
            BuildError: Embeddings or prototypes are missing, or there is nothing to compare with.
        """
        seen = regions(
            output,
            batch,
            step,
            query=self.query,
            support=self.support,
            strides=self.strides,
            how=self.aggregate,
        )
        if not isinstance(batch.target, ReferenceTarget):
            raise BuildError(f"target: needs ReferenceTarget, got {type(batch.target).__name__}")
        background = batch.target.background.nonzero()[:, 0]
        negatives = self._negative_classes(seen)
        alone = not bool(negatives.any(1).all())
        if alone and not (self.hardest and len(background)):
            raise BuildError(
                "region InfoNCE: an object has no class of another category and no background "
                "image to compare with",
                hint="let the support hold more classes (n_way, bank) or add background images",
            )
        count = float(len(seen.found.labels))
        return {
            "region": Ratio(self._of_regions(seen, negatives).sum(), count),
            "prototype": Ratio(self._of_prototypes(seen, background).sum(), count),
        }

    def _negative_classes(self, seen: Regions) -> Tensor:
        """Return `[n, N]` bool, which classes are negatives of each region."""
        own = seen.categories[seen.found.labels]
        return (own[:, None] != seen.categories) & seen.known

    def _of_regions(self, seen: Regions, negatives: Tensor) -> Tensor:
        """Return each region's term against all prototypes, `[n]`."""
        every = torch.arange(len(seen.categories), device=seen.level.device)
        positives = seen.found.labels[:, None] == every
        logits = seen.likeness(every).T / self.temperature  # [n, N]
        return contrastive_terms(logits, positives, negatives)

    def _of_prototypes(self, seen: Regions, background: Tensor) -> Tensor:
        """Return each prototype's term against regions and background cells, `[n]`."""
        labels = seen.found.labels
        own = seen.categories[labels]
        others = own[:, None] != own  # [n, n]
        logits = seen.likeness(labels)  # row: whose prototype; column: which region
        positives = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.hardest and len(background):
            classes, back = labels.unique(return_inverse=True)
            hard = hardest_locations(
                seen.embed, background, seen.prototypes[:, classes], self.hardest
            )
            hard = hard.flatten(1)[back]  # [n, b * hardest]
            logits = torch.cat([logits, hard], 1)
            others = torch.cat([others, torch.ones_like(hard, dtype=torch.bool)], 1)
            positives = torch.cat([positives, torch.zeros_like(hard, dtype=torch.bool)], 1)
        return contrastive_terms(logits / self.temperature, positives, others)
