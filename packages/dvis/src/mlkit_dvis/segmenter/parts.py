"""Pixel decoder, transformer decoder and heads, over any backbone's four maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig

from mlkit_core.errors import BuildError
from mlkit_dvis.blocks import MLP
from mlkit_dvis.segmenter.masked_attention import QueryDecoder
from mlkit_dvis.segmenter.pixel_decoders import DeformableDecoder, FpnDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

PixelDecoder = Literal["deformable", "fpn"]


@dataclass(frozen=True)
class Decoded:
    """What the decoder says of R frames.

    Args:
        mask_features: `[R, Cm, h, w]`.
        maps: `[R, C, …]` at strides 32, 16 and 8.
        embeds: `[R, Q, C]`, queries after the last layer and its norm.
        logits: `[R, Q, K + 1]`, of the initial queries and of every layer, or of the last one.
        masks: `[R, Q, h, w]`, likewise.
    """

    mask_features: Tensor
    maps: list[Tensor]
    embeds: Tensor
    logits: list[Tensor]
    masks: list[Tensor]


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of the decoders, by their published names.

    Args:
        dim: C, of maps and queries; heads must divide it.
        mask_dim: Cm, of the mask features.
        queries: Q.
        encoder_layers: Of the deformable pixel decoder.
        encoder_feedforward: Width within them.
        decoder_layers: Of the transformer decoder, not counting the initial prediction.
        heads: Attention heads of both.
        feedforward: Width within the transformer decoder's layers.
    """

    dim: int = 256
    mask_dim: int = 256
    queries: int = 100
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    decoder_layers: int = 9
    heads: int = 8
    feedforward: int = 2048

    def config(self, num_classes: int) -> Mask2FormerConfig:
        """Return transformers' configuration; it counts the initial prediction as a layer."""
        return Mask2FormerConfig(
            feature_size=self.dim,
            mask_feature_size=self.mask_dim,
            hidden_dim=self.dim,
            encoder_feedforward_dim=self.encoder_feedforward,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers + 1,
            num_attention_heads=self.heads,
            dim_feedforward=self.feedforward,
            dropout=0.0,
            num_queries=self.queries,
            num_labels=num_classes,  # pyright: ignore[reportCallIssue]  # the base class takes it
        )


class SegmenterParts(nn.Module):
    """Everything of the segmenter but its backbone; the encoder takes over its modules.

    Args:
        channels: Of the backbone's maps, fine to coarse.
        sizes: Of the decoders.
        num_classes: K, without "no object".
        pixel_decoder: "deformable" as published, "fpn" for small models.
        reid_dim: Width of the ReID embeddings; 0: none.

    Raises:
        BuildError: Sizes do not fit each other.
    """

    def __init__(
        self,
        channels: Sequence[int],
        sizes: DecoderSizes,
        num_classes: int,
        *,
        pixel_decoder: PixelDecoder = "deformable",
        reid_dim: int = 256,
    ) -> None:
        super().__init__()
        if sizes.dim % sizes.heads or sizes.dim % 4:
            raise BuildError(f"dim: must be a multiple of 4 and of heads {sizes.heads}")
        if pixel_decoder == "deformable" and sizes.dim % 32:
            raise BuildError(f"dim: must be a multiple of 32 for deformable, got {sizes.dim}")
        config = sizes.config(num_classes)
        self.pixel_decoder: nn.Module = (
            DeformableDecoder(config, channels)
            if pixel_decoder == "deformable"
            else FpnDecoder(channels, sizes.dim, sizes.mask_dim)
        )
        self.transformer = QueryDecoder(config)
        self.class_predictor = nn.Linear(sizes.dim, num_classes + 1)
        self.reid_embed = _reid_head(sizes.dim, reid_dim) if reid_dim else None

    def forward(self, maps: Sequence[Tensor], *, every_layer: bool) -> Decoded:
        """Return what is said of frames, from the backbone's maps; in float32."""
        return decode(self, maps, every_layer=every_layer)


class HasParts(Protocol):
    """What has the modules of a segmenter: `SegmenterParts`, or the encoder that took them."""

    pixel_decoder: nn.Module
    transformer: QueryDecoder
    class_predictor: nn.Linear


def decode(parts: HasParts, maps: Sequence[Tensor], *, every_layer: bool) -> Decoded:
    """Return what is said of frames, from the backbone's maps; the pixel decoder in float32."""
    with torch.autocast(maps[0].device.type, enabled=False):
        half = maps[0].dtype in (torch.float16, torch.bfloat16)
        maps = [values.float() for values in maps] if half else list(maps)
        mask_features, coarse = parts.pixel_decoder(maps)
    embeds, mask_embeds = parts.transformer(coarse, mask_features)
    chosen = slice(None) if every_layer else slice(-1, None)
    return Decoded(
        mask_features=mask_features,
        maps=coarse,
        embeds=embeds[-1],
        logits=[parts.class_predictor(level) for level in embeds[chosen]],
        masks=[torch.einsum("rqc,rchw->rqhw", m, mask_features) for m in mask_embeds[chosen]],
    )


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Return what is said of frames, from what is said of some at a time."""
    if len(parts) == 1:
        return parts[0]
    return Decoded(
        mask_features=torch.cat([part.mask_features for part in parts]),
        maps=_joined_each([part.maps for part in parts]),
        embeds=torch.cat([part.embeds for part in parts]),
        logits=_joined_each([part.logits for part in parts]),
        masks=_joined_each([part.masks for part in parts]),
    )


def _joined_each(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(same) for same in zip(*parts, strict=True)]


def _reid_head(dim: int, outputs: int) -> MLP:
    head = MLP(dim, dim, outputs, 3)
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    return head
