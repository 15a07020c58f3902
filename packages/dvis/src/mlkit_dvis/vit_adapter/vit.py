"""The frozen ViT: timm's blocks, DINOv2's tokens, its position table resized by a factor."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LAYER_NORM_EPS = 1e-6
_LAYER_SCALE = 1e-5  # DINOv2's constructor default; its weights hold other values
_MARGIN = 0.1  # DINOv2 adds it to the wanted size, so that rounding never drops a row


def resized_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Return a position table for a grid of patches, its class row kept.

    The factor goes into the interpolation as it is: row i of the result reads source row
    `(i + 0.5) * G / (height + 0.1) - 0.5`. Resizing to a size would read elsewhere.

    Source: Oquab et al., "DINOv2", TMLR 2024 (their resizing of positions).

    Args:
        table: `[1, 1 + G * G, C]`, the class row first. The patch rows are resized in float32.
        height: Patches from top to bottom.
        width: Patches from left to right.

    Returns:
        `[1, 1 + height * width, C]`, of the table's type.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if height == width == side:
        return table
    patches = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((height + _MARGIN) / side, (width + _MARGIN) / side)
    patches = functional.interpolate(patches, scale_factor=factor, mode="bicubic")
    patches = patches.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat([table[:, :1], patches], dim=1)


def resized_patch_kernel(kernel: Tensor, size: int) -> Tensor:
    """Return a patch kernel `[C, 3, k, k]` resized to `[C, 3, size, size]`, corners on corners."""
    if kernel.shape[-1] == size:
        return kernel
    resize = partial(functional.interpolate, size=(size, size), mode="bilinear")
    return resize(kernel.float(), align_corners=True).to(kernel.dtype)


class FrozenViT(nn.Module):
    """A ViT whose tokens are read after several blocks, un-normalised; nothing of it learns.

    `norm` and `mask_token` are DINOv2's and part of its weights; this use of it reads neither.

    Args:
        dim: Width of the tokens.
        depth: Number of blocks.
        heads: Of the attention.
        mlp_ratio: Hidden width of the MLP by token width.
        image_size: Side in pixels of the square that the position table is for.
        patch_size: Side in pixels of a patch.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, mlp_ratio: float, image_size: int, patch_size: int
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)
        self.patch_size = patch_size
        rows = 1 + (image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(None, patch_size, embed_dim=dim, strict_img_size=False)
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, qkv_bias=True, init_values=_LAYER_SCALE, norm_layer=norm)
            for _ in range(depth)
        )
        self.norm = norm(dim)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenViT:
        """Stay in eval mode, whatever is asked."""
        del mode
        return super().train(False)

    def tokens(self, image: Tensor) -> Tensor:
        """Return what enters block 0 of `[B, 3, h, w]`: `[B, 1 + H * W, C]`, the class first."""
        patches = self.patch_embed(image)
        height, width = (side // self.patch_size for side in image.shape[-2:])
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + resized_positions(self.pos_embed, height, width).to(tokens.dtype)

    @torch.no_grad()
    def forward(self, image: Tensor, ends: Sequence[int]) -> list[Tensor]:
        """Return the tokens `[B, 1 + H * W, C]` after each of the blocks `ends`, in order."""
        tokens = self.tokens(image)
        found: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in ends:
                found.append(tokens)
        return found

    def load_dinov2(self, state: Mapping[str, Tensor]) -> None:
        """Load DINOv2 weights under the publication's or timm's names; 14x14 kernels are resized.

        Raises:
            WeightsError: A key is missing or unknown, or has another shape.
        """
        own = self.state_dict()
        given = {"mask_token": own["mask_token"], **state}
        kernel = given.get("patch_embed.proj.weight")
        if kernel is not None and kernel.ndim == 4:  # out, in, height, width
            given["patch_embed.proj.weight"] = resized_patch_kernel(kernel, self.patch_size)
        try:
            self.load_state_dict(given)
        except RuntimeError as err:
            said = " ".join(str(err).split())
            raise WeightsError(f"these are no DINOv2 weights of this ViT: {said}") from err
