"""ViT-Adapter: a convolutional pyramid whose tokens read a frozen ViT at four depths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError, InputError
from mlkit_dvis.vit_adapter.deformable import pixel_centres
from mlkit_dvis.vit_adapter.interaction import Interaction
from mlkit_dvis.vit_adapter.prior import SpatialPrior, init_like_published
from mlkit_dvis.vit_adapter.vit import FrozenViT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_dvis.vit_adapter.deformable import Size

MULTIPLE = 32  # of the image's sides
_PATCH = 16  # the second of the pyramid's three grids is the ViT's grid
_STAGES = 4
_VIT_L_STAGES = ((0, 5), (6, 11), (12, 17), (18, 23))


class ViTAdapter(nn.Module):
    """A frozen DINOv2 ViT and the adapter that makes feature maps of strides 4 to 32 of it.

    Only the adapter learns. The ViT never sees it: no token flows back, unlike in the paper.

    Source: Chen et al., "Vision Transformer Adapter for Dense Predictions", ICLR 2023, section
    3, as used by Zhang et al., "DVIS++", 2023; without its injectors.

    Args:
        embed_dim: Width of all tokens and of all four maps.
        depth: Blocks of the ViT.
        vit_heads: Of the ViT's attention.
        mlp_ratio: Of the ViT's MLPs.
        pretrain_img_size: Side in pixels that the position table is for, a multiple of 16.
        conv_inplane: Channels of the first convolutions.
        deform_heads: Of the adapter's attention.
        n_points: That each of these heads reads.
        cffn_ratio: Hidden width of the adapter's feed-forward nets by token width.
        interaction_indexes: First and last block of each of the four stages.
        patch_size: 16.

    Raises:
        BuildError: Sizes do not fit each other.
    """

    strides: Mapping[str, int] = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

    def __init__(  # published keywords
        self,
        embed_dim: int = 1024,
        depth: int = 24,
        vit_heads: int = 16,
        mlp_ratio: float = 4.0,
        pretrain_img_size: int = 592,
        conv_inplane: int = 64,
        deform_heads: int = 16,
        n_points: int = 4,
        cffn_ratio: float = 0.25,
        interaction_indexes: Sequence[Sequence[int]] = _VIT_L_STAGES,
        patch_size: int = _PATCH,
    ) -> None:
        super().__init__()
        _check(embed_dim, vit_heads, pretrain_img_size, patch_size)
        self.stage_ends = _stage_ends(interaction_indexes, depth)
        self.level_embed = nn.Parameter(torch.empty(3, embed_dim))
        self.spm = SpatialPrior(conv_inplane, embed_dim)
        sizes = (embed_dim, deform_heads, n_points, cffn_ratio)
        self.interactions = nn.ModuleList(
            Interaction(*sizes, extra=index + 1 == _STAGES) for index in range(_STAGES)
        )
        self.up = nn.ConvTranspose2d(embed_dim, embed_dim, kernel_size=2, stride=2)
        self.norm1 = nn.BatchNorm2d(embed_dim)
        self.norm2 = nn.BatchNorm2d(embed_dim)
        self.norm3 = nn.BatchNorm2d(embed_dim)
        self.norm4 = nn.BatchNorm2d(embed_dim)
        init_like_published(self)
        nn.init.normal_(self.level_embed)
        self.vit_module = FrozenViT(
            embed_dim, depth, vit_heads, mlp_ratio, pretrain_img_size, patch_size
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps `res2` to `res5`, `[B, C, h / stride, w / stride]`.

        Args:
            image: `[B, 3, h, w]`, RGB, normalised and then padded with zeros to multiples of 32.

        Raises:
            InputError: A side is no multiple of 32.
        """
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE or not height or not width:
            raise InputError(
                f"image: sides must be multiples of {MULTIPLE}, got {height} x {width}",
                hint="pad right and bottom with zeros after normalisation",
            )
        stages = self.vit_module(image, self.stage_ends)
        patches = [tokens[:, 1:] for tokens in stages]  # without the class token
        finest, *levels = self.spm(image)
        sizes = [(height // stride, width // stride) for stride in (8, 16, 32)]
        tokens = torch.cat([c + e for c, e in zip(levels, self.level_embed, strict=True)], dim=1)
        centres = pixel_centres(sizes, image.device)
        for interaction, x in zip(self.interactions, patches, strict=True):
            tokens = interaction(tokens, x, centres, sizes)
        return self._assemble(finest, tokens, patches, sizes)

    def _assemble(
        self, finest: Tensor, tokens: Tensor, patches: Sequence[Tensor], sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """Add to each pyramid map the ViT's tokens of one depth, the shallow to the fine."""
        c2, c3, c4 = (
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(tokens.split([h * w for h, w in sizes], 1), sizes, strict=True)
        )
        x1, x2, x3, x4 = (x.transpose(1, 2).unflatten(2, sizes[1]) for x in patches)
        return {
            "res2": self.norm1(self.up(c2) + finest + _scaled(x1, 4)),
            "res3": self.norm2(c2 + _scaled(x2, 2)),
            "res4": self.norm3(c3 + x3),
            "res5": self.norm4(c4 + _scaled(x4, 0.5)),
        }

    def load_dinov2(self, state: Mapping[str, Tensor]) -> None:
        """Load the frozen ViT from DINOv2 weights; the adapter stays as it is.

        Raises:
            WeightsError: A key is missing or unknown, or has another shape.
        """
        self.vit_module.load_dinov2(state)


def _scaled(maps: Tensor, factor: float) -> Tensor:
    return functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def _check(dim: int, heads: int, image_size: int, patch_size: int) -> None:
    if patch_size != _PATCH:
        raise BuildError(f"patch_size: the pyramid needs {_PATCH}, got {patch_size}")
    if dim % heads:
        raise BuildError(f"vit_heads: width {dim} does not divide by {heads} heads")
    if image_size % patch_size or image_size <= 0:
        raise BuildError(f"pretrain_img_size: must be a multiple of {patch_size}, got {image_size}")


def _stage_ends(stages: Sequence[Sequence[int]], depth: int) -> tuple[int, ...]:
    """Return each stage's last block; stages must share all blocks out among them, in order."""
    blocks = [b for first, last in stages for b in range(first, last + 1)]
    if len(stages) != _STAGES or blocks != list(range(depth)):
        given = [tuple(stage) for stage in stages]
        raise BuildError(
            f"interaction_indexes: expected {_STAGES} (first, last) pairs that cover blocks "
            f"0..{depth - 1} in order, got {given}"
        )
    return tuple(last for _, last in stages)
