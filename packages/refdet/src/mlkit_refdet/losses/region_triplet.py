"""Triplet loss of regions: nearer to its own prototype than what is not the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Ratio
from mlkit_refdet.features import QueryFeatures, SupportFeatures
from mlkit_refdet.losses.contrast import triplet_terms
from mlkit_refdet.losses.regions import hardest_locations
from mlkit_refdet.losses.roles import choose_role, regions
from mlkit_refdet.targets import TripletOnlyTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_refdet.losses.roles import Regions
    from mlkit_refdet.prototypes import Aggregate

Reduction = Literal["mean", "active"]


class RegionTriplet(nn.Module):
    """Triplets before fusion: prototype, region of the object, region or cell of something else.

    The anchor is the class's prototype at the level of what it is compared with, the positive the
    region of each of its boxes in the positive image. A negative image with another object gives
    that object's region; an empty one gives the cells that are most like the prototype, over all
    levels. Every positive of a triplet meets every negative of it.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015; Hermans, Beyer and Leibe, "In
    Defense of the Triplet Loss", arXiv:1703.07737, for the hardest negatives.

    Args:
        inputs: Role to spec.
        query: Role of query images; None: the only one.
        support: Role of reference photos; None: the only one.
        margin: By how much the positive must be nearer, in cosine distance.
        k: Cells of an empty image that are negatives, the hardest of all levels together.
        background_weight: Of triplets whose negative is an empty image.
        cross_class_weight: Of triplets whose negative shows another object.
        reduction: "mean": of a triplet's comparisons, then over triplets; "active": over the
            comparisons that exceed 0, so that few hard ones are not diluted by many easy ones.
        aggregate: How a class's shots become one prototype.
    """

    output_type, target_type = None, TripletOnlyTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        query: Role | None = None,
        support: Role | None = None,
        *,
        margin: float = 0.3,
        k: int = 10,
        background_weight: float = 1.0,
        cross_class_weight: float = 1.0,
        reduction: Reduction = "mean",
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__()
        if k < 1 or margin < 0 or min(background_weight, cross_class_weight) < 0:
            raise BuildError(
                f"k {k} must be at least 1; margin {margin}, background_weight {background_weight} "
                f"and cross_class_weight {cross_class_weight} must not be negative"
            )
        if background_weight == cross_class_weight == 0:
            raise BuildError("background_weight and cross_class_weight must not both be 0")
        self.query = choose_role(inputs, query, QueryFeatures, "query")
        self.support = choose_role(inputs, support, SupportFeatures, "support")
        self.strides = dict(inputs[self.query].strides)
        self.margin, self.k = margin, k
        self.aggregate: Aggregate = aggregate
        self.type_weights = {"background": background_weight, "cross_class": cross_class_weight}
        self.reduction: Reduction = reduction

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the parts "background" and "cross_class", those whose weight is above 0."""
        seen = regions(
            output,
            batch,
            step,
            query=self.query,
            support=self.support,
            strides=self.strides,
            how=self.aggregate,
        )
        target = batch.target
        if not isinstance(target, TripletOnlyTarget):
            raise BuildError(f"target: needs triplets, got {type(target).__name__}")
        likeness = seen.likeness(target.anchors)  # [T, n]
        positives = _positives(seen, target)
        gathered = {"background": self._background, "cross_class": self._cross_class}
        return {
            name: self._reduced(*gathered[name](seen, target, likeness, positives), weight)
            for name, weight in self.type_weights.items()
            if weight > 0
        }

    def _background(
        self, seen: Regions, target: TripletOnlyTarget, likeness: Tensor, positives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return terms `[t, n, k]` of empty negatives and which of them count."""
        kind = target.is_background
        images, back = target.negatives[kind].unique(return_inverse=True)
        anchors = seen.prototypes[:, target.anchors[kind]]  # [L, t, D]
        hard = hardest_locations(seen.embed, images, anchors, self.k)
        hard = hard[torch.arange(len(back), device=back.device), back]  # [t, k]
        terms = triplet_terms(likeness[kind][..., None], hard[:, None], self.margin)
        return terms, positives[kind][..., None].expand_as(terms)

    def _cross_class(
        self, seen: Regions, target: TripletOnlyTarget, likeness: Tensor, positives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return terms `[t, n, n]` of negatives with another object and which of them count."""
        kind, found = ~target.is_background, seen.found
        own = target.category_ids[target.anchors[kind]]
        negatives = found.rows == target.negatives[kind][:, None]
        negatives &= target.category_ids[found.labels] != own[:, None]
        if not bool(negatives.any(1).all()):
            raise BuildError("triplets: a negative image shows no object of another category")
        like = likeness[kind]
        terms = triplet_terms(like[..., None], like[:, None], self.margin)
        return terms, positives[kind][..., None] & negatives[:, None]

    def _reduced(self, terms: Tensor, counted: Tensor, weight: float) -> Ratio:
        terms = terms * counted
        if self.reduction == "active":
            return Ratio(terms.sum() * weight, (terms.detach() > 0).sum())
        per_triplet = terms.sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
        return Ratio(per_triplet.sum() * weight, float(len(terms)))


def _positives(seen: Regions, target: TripletOnlyTarget) -> Tensor:
    """Return `[T, n]` bool, which regions are positives of which triplet."""
    found = seen.found
    if not len(target.anchors):
        raise BuildError(
            "triplets: the batch has none", hint="look at the data's negatives and triplet ratio"
        )
    images = found.rows == target.positives[:, None]
    shown = images & (found.labels == target.anchors[:, None])
    if not bool(shown.any(1).all()):
        raise BuildError("triplets: a positive image shows no box of the anchor's class")
    return shown
