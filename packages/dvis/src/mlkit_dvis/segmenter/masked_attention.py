"""The transformer decoder's masked cross-attention, and the masks that block it.

Two steps of transformers' decoder are done in another way, to the same end. Masks that only say
where the next layer looks are made on mask features of that layer's size: shrinking is linear, so
it may come before the product with the queries. And attention weights are computed on demand only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskPredictor,
    Mask2FormerTransformerModule,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import Mask2FormerConfig


class MaskedCrossAttention(nn.MultiheadAttention):
    """Attention of queries to the pixels of a map, one mask for all heads; sequence first."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as the decoder calls it
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor,
        key_padding_mask: None = None,
    ) -> tuple[Tensor, None]:
        """Return what the queries read, `[Q, R, C]`.

        Args:
            query: `[Q, R, C]`.
            key: `[S, R, C]`.
            value: `[S, R, C]`.
            attn_mask: `[R, 1, Q, S]` bool, True is not looked at; no row may be all True.
            key_padding_mask: None; the decoder names it.
        """
        heads = [self._heads(x, part) for part, x in enumerate((query, key, value))]
        read = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=~attn_mask)
        return self.out_proj(read.permute(2, 0, 1, 3).flatten(2)), None

    def weights(self, query: Tensor, key: Tensor, attn_mask: Tensor) -> Tensor:
        """Return how much each query looks at each pixel, `[R, heads, Q, S]`; rows sum to 1."""
        scores = self._heads(query, 0) @ self._heads(key, 1).transpose(2, 3) * self.head_dim**-0.5
        return scores.masked_fill(attn_mask, float("-inf")).softmax(-1)

    def _heads(self, x: Tensor, part: int) -> Tensor:
        """Return query (0), key (1) or value (2), cut into heads, `[R, heads, L, D]`."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)


class MaskPredictor(Mask2FormerMaskPredictor):
    """Says where the next layer looks, and gives the mask embeddings in the place of masks."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # shrunk maps for one map
        self,
        outputs: Tensor,
        pixel_embeddings: Sequence[Tensor],
        attention_mask_target_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Return mask embeddings `[R, Q, Cm]`, and what is blocked `[R, 1, Q, h * w]`.

        Args:
            outputs: `[Q, R, C]`, queries after the last norm.
            pixel_embeddings: Mask features at the size of each level, `[R, Cm, h, w]`.
            attention_mask_target_size: Height and width of the next layer's level.
        """
        embeddings = self.mask_embedder(outputs.transpose(0, 1))
        height, width = attention_mask_target_size
        (features,) = (m for m in pixel_embeddings if tuple(m.shape[2:]) == (height, width))
        with torch.no_grad():
            masks = embeddings @ features.flatten(2)
            return embeddings, (masks.sigmoid() < 0.5)[:, None]


class QueryDecoder(Mask2FormerTransformerModule):
    """transformers' masked-attention decoder, its two costly steps replaced.

    Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
    CVPR 2022, section 3.2; parameters and names are those of transformers.
    """

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config.hidden_dim, config)
        dim, heads = config.hidden_dim, config.num_attention_heads
        for layer in cast("Iterable[Any]", self.decoder.layers):
            layer.cross_attn = MaskedCrossAttention(dim, heads)
        mask_dim: Any = config.mask_feature_size  # which transformers declares as a tensor
        self.decoder.mask_predictor = MaskPredictor(dim, heads, mask_dim)
        self._draw()

    def _draw(self) -> None:
        """Draw as published: attention and feed-forward by Xavier, tables and levels normal."""
        for name, parameter in self.decoder.layers.named_parameters():
            if parameter.ndim > 1:
                # The authors draw query, key and value as one matrix [3C, C].
                joint = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
                nn.init.xavier_uniform_(parameter, gain=0.5**0.5 if joint else 1.0)
        for table in (self.queries_embedder, self.queries_features, self.level_embed):
            nn.init.normal_(table.weight)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # two tuples are wanted
        self, multi_scale_features: list[Tensor], mask_features: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return embeddings of queries, initial and of every layer, and of their masks.

        Args:
            multi_scale_features: `[R, C, …]`, coarse to fine.
            mask_features: `[R, Cm, h, w]`.

        Returns:
            Of each layer `[R, Q, C]` after the last norm, and `[R, Q, Cm]`.
        """
        shrunk: Any = [
            F.interpolate(mask_features.detach(), m.shape[2:], mode="bilinear", align_corners=False)
            for m in multi_scale_features
        ]
        given: Any = super().forward(multi_scale_features, shrunk)
        embeddings = tuple(level.transpose(0, 1) for level in given.intermediate_hidden_states)
        return embeddings, given.masks_queries_logits
