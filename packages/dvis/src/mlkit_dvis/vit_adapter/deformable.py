"""Deformable attention of pyramid tokens to one grid of ViT tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

Size = tuple[int, int]  # height, width


def pixel_centres(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """Return the centres of all pixels of some grids, each within its own grid.

    They are float32 whatever the model's type, as in the published system.

    Args:
        sizes: Height and width of each grid.
        device: Of the result.

    Returns:
        `[L, 2]`, x and y in 0..1, grid after grid, each row by row.
    """
    grids: list[Tensor] = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        grids.append(torch.stack([columns, rows], dim=-1).flatten(0, 1))
    return torch.cat(grids)


def compass(heads: int, points: int) -> Tensor:
    """Return the offsets that attention starts with: each head looks its own way.

    Args:
        heads: Directions, evenly round the circle, each with its larger component of length 1.
        points: The n-th point lies n times as far.

    Returns:
        `[heads, points, 2]`, x and y in pixels.
    """
    angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    ways = torch.stack([angles.cos(), angles.sin()], dim=-1)
    ways = ways / ways.abs().amax(dim=-1, keepdim=True)
    far = torch.arange(1, points + 1, dtype=torch.float32)
    return ways[:, None] * far[:, None]


class DeformableAttention(nn.Module):
    """Each query reads a grid at a few points near its own place.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, eq. 2; the core is transformers'.

    Args:
        dim: Width of queries and values.
        heads: Of the attention.
        points: Read by each head.

    Raises:
        BuildError: `dim` does not divide by `heads`.
    """

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        if dim % heads:
            raise BuildError(f"deform_heads: width {dim} does not divide by {heads} heads")
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Look around evenly: fixed directions, equal weights."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(compass(self.heads, self.points).flatten())
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, centres: Tensor, values: Tensor, size: Size) -> Tensor:
        """Return what the queries read, `[B, Q, C]`.

        Args:
            queries: `[B, Q, C]`.
            centres: `[Q, 2]`, each query's place, x and y in 0..1.
            values: `[B, H * W, C]`, the grid row by row.
            size: H and W.
        """
        batch, count, _ = queries.shape
        value = self.value_proj(values).unflatten(-1, (self.heads, -1))
        shape = (batch, count, self.heads, 1, self.points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(batch, count, self.heads, -1).softmax(-1)
        pixels = torch.tensor(size[::-1], device=offsets.device, dtype=offsets.dtype)
        places = centres[None, :, None, None, None] + offsets / pixels
        wide = torch.promote_types(
            value.dtype, places.dtype
        )  # a half-precision place is too coarse
        read = multi_scale_deformable_attention(
            value.to(wide), [size], places.to(wide), weights.view(shape).to(wide)
        )
        return self.output_proj(read.to(value.dtype))
