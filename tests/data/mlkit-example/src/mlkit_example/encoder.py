"""A wavelet pyramid as an image encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec

if TYPE_CHECKING:
    from pathlib import Path


def haar(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the average of every 2 x 2 block and its three differences.

    Source: Mallat, "A Theory for Multiresolution Signal Decomposition", IEEE TPAMI 1989. Unlike
    the paper, nothing is scaled by the root of two: the average stays within the range of values.

    Args:
        images: `[R, C, H, W]`, H and W even.

    Returns:
        `[R, C, H / 2, W / 2]` and `[R, 3 C, H / 2, W / 2]`.
    """
    upper, lower = images[:, :, 0::2], images[:, :, 1::2]
    a, b = upper[..., 0::2], upper[..., 1::2]
    c, d = lower[..., 0::2], lower[..., 1::2]
    details = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4
    return (a + b + c + d) / 4, details


class HaarPyramid(nn.Module):
    """Every scale's wavelets, mixed by a 1x1 convolution into one map.

    Args:
        depth: Scales; maps `p1` to `p<depth>` have strides 2 to 2^depth.
        dim: Channels of every map.
    """

    def __init__(self, depth: int = 4, dim: int = 32) -> None:
        super().__init__()
        levels = {f"p{scale}": 2**scale for scale in range(1, depth + 1)}
        self.spec = FeatureSpec(channels=dict.fromkeys(levels, dim), strides=levels, vector_dim=dim)
        self.input_shape = (3, None, None)
        self.size_multiple = 2**depth
        self.pad_rgb = (0.5, 0.5, 0.5)
        self.mix = nn.ModuleDict({level: nn.Conv2d(12, dim, 1) for level in levels})

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, H, W]`."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise BuildError(f"haar-pyramid takes [R, 3, H, W], got {tuple(x.shape)}")
        if x.shape[2] % self.size_multiple or x.shape[3] % self.size_multiple:
            raise BuildError(
                f"haar-pyramid takes multiples of {self.size_multiple} px, got {tuple(x.shape[2:])}"
            )
        maps: dict[str, Tensor] = {}
        average = x - 0.5  # grey is zero, and so is padding with `pad_rgb`
        for level, mix in self.mix.items():
            average, details = haar(average)
            maps[level] = mix(torch.cat([average, details], dim=1)).relu()
        coarsest = maps[f"p{len(maps)}"]
        return Features(maps=maps, vector=coarsest.mean((2, 3)))


def example(folder: Path) -> Example:
    """Return a small pyramid and two images."""
    del folder
    return Example(options={"depth": 3, "dim": 8}, args=(torch.rand(2, 3, 32, 48),))
