"""From a backbone's maps to mask features at stride 4 and three maps for the decoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from mlkit_dvis.segmenter.deformable import PyramidAttention

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import Mask2FormerConfig


def norm_groups(dim: int) -> int:
    """Return the groups of a group norm: 32 as published, fewer where they do not divide."""
    return math.gcd(dim, 32)


class FpnDecoder(nn.Module):
    """A feature pyramid: much cheaper than deformable attention, for small models.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    Args:
        channels: Of the four maps, fine to coarse.
        dim: Of the maps that the decoder reads.
        mask_dim: Of the mask features.
    """

    def __init__(self, channels: Sequence[int], dim: int, mask_dim: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, 3, padding=1, bias=False),
                nn.GroupNorm(norm_groups(dim), dim),
                nn.ReLU(),
            )
            for _ in channels
        )
        self.mask_projection = nn.Conv2d(dim, mask_dim, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return mask features `[R, Cm, h, w]`, and the coarser maps, coarse to fine."""
        merged: list[Tensor] = []
        for x, lateral, output in zip(
            reversed(maps), reversed(self.laterals), reversed(self.outputs), strict=True
        ):
            x = lateral(x)
            if merged:
                above = F.interpolate(merged[-1], size=x.shape[-2:], mode="bilinear")
                x = x + above
            merged.append(output(x))
        return self.mask_projection(merged[-1]), merged[:-1]


class DeformableDecoder(Mask2FormerPixelDecoder):
    """transformers' multi-scale deformable attention decoder, drawn as published.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, section 4; parameters and names are those of
    transformers.
    """

    def __init__(self, config: Mask2FormerConfig, channels: Sequence[int]) -> None:
        super().__init__(config, feature_channels=list(channels))
        dim = config.feature_size
        for layer in cast("Iterable[Any]", self.encoder.layers):
            own = layer.self_attn
            layer.self_attn = PyramidAttention(dim, own.n_heads, own.n_levels, own.n_points)
            layer.activation_fn = torch.relu_  # a new tensor of its size costs time
            nn.init.xavier_uniform_(layer.fc1.weight)
            nn.init.xavier_uniform_(layer.fc2.weight)
        nn.init.normal_(self.level_embed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride]  # the one call that is made
        """Return mask features `[R, Cm, h, w]`, and the coarser maps, coarse to fine."""
        given: Any = super().forward(
            list(maps), output_attentions=False, output_hidden_states=False
        )
        return given.mask_features, list(given.multi_scale_features)
