"""One 1x1 projection for each level, into the space that queries and photos share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEED = 20010


class Projection(nn.Module):
    """Linear layer and LayerNorm over channels, for each level.

    Weights are drawn from one fixed seed, level by level: the projections of query and reference
    encoders start equal where their widths do, so that a photo and a picture of one thing are alike
    before anything is learned.

    Args:
        channels: Level to width.
        dim: Width D of the shared space.
    """

    def __init__(self, channels: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.levels = tuple(channels)
        self.linear = nn.ModuleDict({level: nn.Linear(c, dim) for level, c in channels.items()})
        self.norm = nn.ModuleDict({level: nn.LayerNorm(dim) for level in channels})
        generator = torch.Generator().manual_seed(_SEED)
        for level, c in channels.items():
            layer = self.linear[level]
            drawn = torch.randn(dim, c, generator=generator) / c**0.5
            with torch.no_grad():
                layer.weight.copy_(drawn)  # pyright: ignore[reportCallIssue,reportArgumentType]  # a Linear's
                layer.bias.zero_()  # pyright: ignore[reportCallIssue]  # a Linear's

    def rows(self, level: str, values: Tensor) -> Tensor:
        """Return projected rows, `[…, C]` to `[…, D]`."""
        return self.norm[level](self.linear[level](values))

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return projected maps, level to `[R, D, h, w]`."""
        return {
            level: self.rows(level, maps[level].movedim(1, -1)).movedim(-1, 1)
            for level in self.levels
        }


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map `[R, C, h, w]`.

    A norm over positions, too, as GroupNorm is, would bring a map without the object to the same
    spread as one with it: how strongly an image answers is what tells the two apart.
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        """Return a map of the same shape."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def unit(values: Tensor, dim: int = -1) -> Tensor:
    """Return `values` of length one along a dimension."""
    return functional.normalize(values, dim=dim)
