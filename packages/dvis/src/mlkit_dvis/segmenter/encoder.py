"""The encoder `mask2former`: queries, masks and mask features of every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, FeatureSpec, tracing
from mlkit_dvis.features import MASK_LEVEL, SegmenterFeatures
from mlkit_dvis.segmenter.backbones import batch_norms, make_backbone, maps_of
from mlkit_dvis.segmenter.parts import DecoderSizes, SegmenterParts, decode, joined
from mlkit_dvis.segmenter.pretrained import fitting_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_dvis.segmenter.parts import Decoded, PixelDecoder

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, 0..255
_MULTIPLE = 32
# In inference on a processor: tensors of more frames exceed what the allocator keeps, and every
# page of theirs is fetched anew (a quarter of the time at 480 x 864).
_PIXELS_AT_ONCE = 2**19


class Mask2FormerEncoder(nn.Module):
    """Segments each frame by itself with a fixed set of queries.

    Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
    CVPR 2022; pixel decoder, decoder and backbones are transformers' and timm's.

    Args:
        num_classes: K, of the data.
        backbone: "resnet50", "swin-tiny" to "swin-large", "vit-adapter", or "timm:<model>".
        vit_adapter: Of a "vit-adapter": arguments in the place of ViT-L's.
        pixel_decoder: "deformable" as published, "fpn" for small models.
        norm: "batch" trains the backbone's batch norms; "frozen" keeps them constant, as published
            recipes do over pretrained weights.
        dim: C, of maps and queries.
        mask_dim: Cm, of the mask features.
        num_queries: Q.
        encoder_layers: Of the deformable pixel decoder.
        encoder_feedforward: Width within them.
        decoder_layers: Of the transformer decoder.
        heads: Attention heads.
        feedforward: Width within the transformer decoder's layers.
        reid_dim: Width of the embeddings that train instances apart; 0: none.

    Raises:
        BuildError: Sizes do not fit each other, or there is no such backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50",
        vit_adapter: Mapping[str, Any] | None = None,
        pixel_decoder: PixelDecoder = "deformable",
        norm: Literal["batch", "frozen"] = "batch",
        dim: int = 256,
        mask_dim: int = 256,
        num_queries: int = 100,
        encoder_layers: int = 6,
        encoder_feedforward: int = 1024,
        decoder_layers: int = 9,
        heads: int = 8,
        feedforward: int = 2048,
        reid_dim: int = 256,
    ) -> None:
        super().__init__()
        self.backbone, channels = make_backbone(backbone, vit_adapter)
        sizes = DecoderSizes(
            dim, mask_dim, num_queries, encoder_layers, encoder_feedforward,
            decoder_layers, heads, feedforward,
        )  # fmt: skip
        parts = SegmenterParts(
            channels, sizes, num_classes, pixel_decoder=pixel_decoder, reid_dim=reid_dim
        )
        self.pixel_decoder, self.transformer = parts.pixel_decoder, parts.transformer
        self.class_predictor, self.reid_embed = parts.class_predictor, parts.reid_embed
        self._constant_norms = norm == "frozen"
        if self._constant_norms:
            for module in batch_norms(self.backbone):
                module.requires_grad_(False)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            scaled = torch.tensor(values).view(1, 3, 1, 1) / 255
            self.register_buffer(name, scaled, persistent=False)
        self.spec = FeatureSpec(
            channels={MASK_LEVEL: mask_dim, "p3": dim, "p4": dim, "p5": dim},
            strides={MASK_LEVEL: 4, "p3": 8, "p4": 16, "p5": 32},
            vector_dim=dim,
            token_dim=dim,
            type=SegmenterFeatures,
        )
        self.input_shape: tuple[int | None, ...] = (3, None, None)
        self.size_multiple = _MULTIPLE
        self.pad_rgb = tuple(value / 255 for value in _MEAN)
        # Of the decoder's self-attention: its cross-attention reads weights past their modules.
        self.lora_targets = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation; constant batch norms stay as they are."""
        super().train(mode)
        for module in batch_norms(self.backbone) if self._constant_norms else ():
            module.eval()
        return self

    def forward(self, x: Tensor) -> SegmenterFeatures:
        """Return what is seen in RGB frames 0..1, `[R, 3, H, W]`.

        Raises:
            BuildError: The size does not suit; the message names the legal ones.
        """
        self._check(x)
        if self.training or x.device.type != "cpu" or tracing():
            return self._features(self._decoded(x))
        x = x.contiguous(memory_format=torch.channels_last)  # a processor's convolutions like it
        rows = max(1, _PIXELS_AT_ONCE // (x.shape[2] * x.shape[3]))
        return self._features(joined([self._decoded(some) for some in x.split(rows)]))

    def _decoded(self, x: Tensor) -> Decoded:
        normalised = (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        return decode(self, maps_of(self.backbone, normalised), every_layer=self.training)

    def _features(self, decoded: Decoded) -> SegmenterFeatures:
        p5, p4, p3 = decoded.maps
        rows = len(p5)
        earlier = len(decoded.logits) > 1
        queries = self.transformer.queries_features.weight
        return SegmenterFeatures(
            maps={MASK_LEVEL: decoded.mask_features, "p3": p3, "p4": p4, "p5": p5},
            vector=p5.mean((2, 3)),
            tokens=decoded.embeds,
            logits=decoded.logits[-1],
            masks=decoded.masks[-1],
            queries=queries.expand(rows, -1, -1),
            reid=self.reid_embed(decoded.embeds) if self.reid_embed is not None else None,
            aux_logits=torch.stack(decoded.logits[:-1], 1) if earlier else None,
            aux_masks=torch.stack(decoded.masks[:-1], 1) if earlier else None,
        )

    def _check(self, x: Tensor) -> None:
        if tracing():
            return
        if x.ndim != 4 or x.shape[1] != 3:
            raise BuildError(f"mask2former takes [R, 3, H, W], got {tuple(x.shape)}")
        if x.shape[2] % _MULTIPLE or x.shape[3] % _MULTIPLE:
            got = f"{x.shape[2]} x {x.shape[3]}"
            raise BuildError(f"mask2former takes multiples of {_MULTIPLE} px, got {got}")

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load this encoder's own weights, or those of a Mask2Former of transformers.

        Raises:
            WeightsError: Keys are missing, unknown or of another shape.
        """
        self.load_state_dict(fitting_state(state_dict, self.state_dict()))


def example(folder: Path) -> Example:
    """Return a tiny segmenter and two frames."""
    del folder
    options = {
        "backbone": "timm:test_resnet", "pixel_decoder": "fpn", "dim": 16, "mask_dim": 8,
        "num_queries": 5, "decoder_layers": 2, "heads": 2, "feedforward": 16, "reid_dim": 8,
    }  # fmt: skip
    return Example(options=options, args=(torch.rand(2, 3, 64, 64),), context={"num_classes": 3})
