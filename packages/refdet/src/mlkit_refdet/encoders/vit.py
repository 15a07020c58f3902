"""Encoder `vit-reference`: a plain ViT of timm (DINOv2) for reference photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.components.timm_encoder import TimmEncoder
from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec
from mlkit_refdet.encoders.foreground import project_photos
from mlkit_refdet.encoders.projection import Projection
from mlkit_refdet.features import LEVELS, EmbedSpec, SupportFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class VitTrunk(nn.Module):
    """Patches of three blocks as maps p3, p4 and p5, all at the ViT's stride, and its own vector.

    Args:
        model: timm's name.
        image_size: Side that it is built for.
        blocks: One for each level.
    """

    def __init__(self, model: str, image_size: int | None, blocks: Sequence[int]) -> None:
        super().__init__()
        self.vit = TimmEncoder(model, out_indices=sorted(set(blocks)), image_size=image_size)
        if not self.vit.is_vit:
            raise BuildError(f"model: vit-reference takes a plain ViT, {model!r} is none")
        width = self.vit.spec.token_dim or 0
        stride = next(iter(self.vit.spec.strides.values()))
        self.places = [self.vit.indices.index(block) for block in blocks]
        self.spec = FeatureSpec(
            channels=dict.fromkeys(LEVELS, width),
            strides=dict.fromkeys(LEVELS, stride),
            vector_dim=self.vit.spec.vector_dim,
        )

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB photos 0..1, `[R, 3, H, W]`."""
        found = self.vit(x)
        maps = list(found.maps.values())
        named = {level: maps[place] for level, place in zip(LEVELS, self.places, strict=True)}
        return Features(maps=named, vector=found.vector)


class VitReference(nn.Module):
    """Prototypes and tokens of reference photos from patch tokens of three blocks.

    A prototype of p3 is read from an early block, which keeps texture, that of p5 from the last.
    Unlike a linear map of one class token, levels differ, and where the object is in the photo
    counts. Published weights: `weights: auto` (DINOv2, Apache-2.0).

    Args:
        model: timm's name of a plain ViT.
        image_size: Side that it is built for; None: the model's own. Any multiple of the patch
            works then.
        blocks: For p3, p4 and p5, from 0.
        dim: Width of prototypes and tokens.
        tokens: A photo gives this squared.
    """

    input_shape = (3, None, None)
    trunk_options = ("model", "image_size", "blocks")
    uses_mask = True

    def __init__(
        self,
        model: str = "vit_small_patch14_dinov2.lvd142m",
        image_size: int | None = None,
        blocks: Sequence[int] = (5, 8, 11),
        dim: int = 256,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        if len(blocks) != len(LEVELS):
            raise BuildError(f"blocks: one for each of {', '.join(LEVELS)}, got {list(blocks)}")
        self.trunk, self.tokens = VitTrunk(model, image_size, blocks), tokens
        self.projection = Projection(self.trunk.spec.channels, dim)
        vit = self.trunk.vit
        self.size_multiple, self.sizes, self.pad_rgb = vit.size_multiple, vit.sizes, vit.pad_rgb
        self.lora_targets = vit.lora_targets
        self.spec = EmbedSpec(
            channels=self.trunk.spec.channels,
            strides=self.trunk.spec.strides,
            vector_dim=self.trunk.spec.vector_dim,
            type=SupportFeatures,
            embed_dim=dim,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> SupportFeatures:
        """Return the features of RGB photos 0..1, `[R, 3, H, W]`.

        Args:
            x: Photos.
            mask: `[R, H, W]`, 1 on the object; zeros or None where its place is not known.
        """
        return self.finish(self.trunk(x), mask)

    def finish(self, features: Features, mask: Tensor | None = None) -> SupportFeatures:
        """Return the photos' features of what the trunk gave."""
        protos, tokens = project_photos(self.projection, features.maps, mask, self.tokens)
        return SupportFeatures(
            maps=features.maps,
            vector=features.vector,
            mask=mask,
            protos=protos,
            level_tokens=tokens,
        )

    def pretrained_file(self) -> Path:
        """Return the published weights' file, as timm names it."""
        return self.trunk.vit.pretrained_file()

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights as timm or the model's authors publish them."""
        self.trunk.vit.load_pretrained(state_dict)


def example(folder: Path) -> Example:
    """Return a tiny ViT and two photos."""
    del folder
    options = {"model": "test_vit", "blocks": (0, 1, 2), "dim": 8, "tokens": 2}
    return Example(options=options, args=(torch.rand(2, 3, 160, 160),))
