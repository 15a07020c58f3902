"""Options of refdet's losses. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Config

_STANDARD = "Of the standard branch; null: 1 where the head has it; 0: left out."
_PAIRS = "Of the pairs of image and asked class; null: 1 where the head has them; 0: left out."
_QUERY = "Role of query images; null: the only one."
_SUPPORT = "Role of reference photos; null: the only one."
_FUSED = "Role of the fused pairs; null: the only one."
_AGGREGATE = "How a class's shots become one prototype; as in the fusion."


class AnchorBceConfig(Config):
    """Cross-entropy of every anchor and class."""

    standard_weight: float | None = Field(default=None, ge=0, description=_STANDARD)
    pairs_weight: float | None = Field(default=None, ge=0, description=_PAIRS)
    positives_only: bool = Field(
        default=False,
        description="WARNING, an experiment's arm: without background anchors the optimum is "
        "to say yes everywhere.",
    )


class BoxIouConfig(Config):
    """Overlap loss of positive anchors' boxes."""

    variant: Literal["wiou_v3", "wiou_v2", "wiou_v1", "ciou"] = Field(
        default="wiou_v3", description="Wise-IoU by version, or complete IoU."
    )
    gamma: float = Field(default=0.5, ge=0, description="Exponent of v2's focus.")
    alpha: float = Field(default=1.9, gt=1, description="Base of v3's fall.")
    delta: float = Field(default=3.0, gt=0, description="Outlier degree whose gain in v3 is 1.")
    momentum: float = Field(
        default=0.01, gt=0, le=1, description="Share of a batch in the running mean of v2 and v3."
    )
    standard_weight: float | None = Field(default=None, ge=0, description=_STANDARD)
    pairs_weight: float | None = Field(default=None, ge=0, description=_PAIRS)


class BoxDflConfig(Config):
    """Distribution focal loss of positive anchors' distances."""

    standard_weight: float | None = Field(default=None, ge=0, description=_STANDARD)
    pairs_weight: float | None = Field(default=None, ge=0, description=_PAIRS)


class RegionTripletConfig(Config):
    """Triplets of prototype, region and negative, before fusion."""

    query: str | None = Field(default=None, description=_QUERY)
    support: str | None = Field(default=None, description=_SUPPORT)
    margin: float = Field(
        default=0.3, ge=0, description="By how much the positive must be nearer, cosine distance."
    )
    k: int = Field(
        default=10, ge=1, description="Hardest cells of an empty image that are negatives."
    )
    background_weight: float = Field(
        default=1.0, ge=0, description="Of triplets whose negative is an empty image."
    )
    cross_class_weight: float = Field(
        default=1.0, ge=0, description="Of triplets whose negative shows another object."
    )
    reduction: Literal["mean", "active"] = Field(
        default="mean",
        description="mean: over triplets; active: over comparisons that exceed 0.",
    )
    aggregate: Literal["mean", "geomedian", "max", "attention"] = Field(
        default="mean", description=_AGGREGATE
    )


class RegionInfoNceConfig(Config):
    """Contrast of regions with all prototypes, and back, before fusion."""

    query: str | None = Field(default=None, description=_QUERY)
    support: str | None = Field(default=None, description=_SUPPORT)
    temperature: float = Field(default=0.1, gt=0, description="What cosines are divided by.")
    hardest: int = Field(
        default=10, ge=0, description="Cells of each background image that are negatives."
    )
    aggregate: Literal["mean", "geomedian", "max", "attention"] = Field(
        default="mean", description=_AGGREGATE
    )


class RegionSupConConfig(Config):
    """Supervised contrast of positive anchors on fused maps."""

    on: str | None = Field(default=None, description=_FUSED)
    temperature: float = Field(default=0.07, gt=0, description="What cosines are divided by.")
    dim: int = Field(default=128, ge=1, description="Of the projection.")
    background: int = Field(
        default=256, ge=0, description="Background anchors drawn from all pairs of the batch."
    )
    proto_dim: int | None = Field(
        default=None,
        ge=1,
        description="Width of prototypes; null: as the support role publishes, else as the maps.",
    )


class ProposalContrastConfig(Config):
    """Contrastive proposal encoding on fused maps."""

    on: str | None = Field(default=None, description=_FUSED)
    temperature: float = Field(default=0.2, gt=0, description="What cosines are divided by.")
    dim: int = Field(default=128, ge=1, description="Of the projection.")
    proposals: int = Field(default=16, ge=1, description="Boxes of each pair, before suppression.")
    min_iou: float = Field(default=0.7, gt=0, le=1, description="From which a box is an anchor.")
    positive_iou: float = Field(
        default=0.5, gt=0, le=1, description="From which a box is of the asked class."
    )
    reweight: Literal["one", "linear", "exp"] = Field(
        default="one", description="Weight of an anchor of IoU u: 1, u, or exp(u) - 1."
    )
    true_boxes: bool = Field(default=True, description="Whether true boxes are proposals, too.")
