"""What refdet's roles hold, beside maps: embeddings, prototypes, pairs of image and class.

Letters: B query images, N support classes, K shots of a class, W classes asked of an image,
D width of the shared embedding, C channels of a level, h and w its height and width in cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlkit_core.types import Features, FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LEVELS = ("p3", "p4", "p5")
STRIDES = {"p3": 8, "p4": 16, "p5": 32}


@dataclass(frozen=True, kw_only=True)
class EmbedSpec(FeatureSpec):
    """A spec whose features embed queries or photos in one space, `embed_dim` wide."""

    embed_dim: int = 0


@dataclass(frozen=True, kw_only=True)
class QueryFeatures(Features):
    """Features of query images.

    Args:
        embed: Level to `[B, D, h, w]`, before any fusion: where regions meet prototypes. Not of
            unit length.
    """

    embed: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SupportFeatures(Features):
    """Features of reference photos, one row for each shot, R = N * K; `valid` is `[N, K]`.

    Args:
        protos: Level to `[R, D]`, each shot's foreground, of unit length.
        level_tokens: Level to `[R, T, D]`, parts of the object, for cross-attention.
    """

    protos: Mapping[str, Tensor] = field(default_factory=dict)
    level_tokens: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AskedFeatures(Features):
    """Which classes each image is searched for: `vector [B, W]`, support's index or -1 for none.

    The numbers come from the user or from the sampler, never from an image's labels in evaluation.
    """


@dataclass(frozen=True, kw_only=True)
class PairFeatures(Features):
    """Fused features; `maps` are the maximum over the classes asked, `[B, C, h, w]`.

    Args:
        pairs: Level to `[B, W, C, h, w]`, the image as each asked class sees it.
        class_protos: Level to `[N, D]`, prototypes of the classes, shots aggregated, unit length.
        asked: `[B, W]` long, the pair's class; -1 where the image has fewer.
    """

    pairs: Mapping[str, Tensor] = field(default_factory=dict)
    class_protos: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Tensor | None = None
