"""Encoder `conv-stem`: a map at full or half resolution beside a strided encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_angioseg.blocks import conv_block
from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec

if TYPE_CHECKING:
    from pathlib import Path


class ConvStem(nn.Module):
    """Two 3x3 convolutions on RGB 0..1 `[R, 3, H, W]`: map "stem" `[R, dim, H/stride, W/stride]`.

    A vessel of two pixels is gone at stride 4; this keeps it for `fpn-mask`.

    Args:
        dim: Channels.
        stride: 1 or 2.
        norm: "batch" or "group".
        mean: Grey that becomes 0.
        std: Grey step that becomes 1.
    """

    input_shape = (3, None, None)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        dim: int = 16,
        stride: int = 1,
        norm: str = "batch",
        mean: float = 0.45,
        std: float = 0.15,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.layers = nn.Sequential(conv_block(3, dim, norm, stride), conv_block(dim, dim, norm))
        self.size_multiple, self.pad_rgb = stride, (mean, mean, mean)
        self.spec = FeatureSpec(channels={"stem": dim}, strides={"stem": stride})

    def forward(self, image: Tensor) -> Features:
        """Return the map of images `[R, 3, H, W]`, RGB 0..1."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise BuildError(f"conv-stem: expected images [R, 3, H, W], got {tuple(image.shape)}")
        if image.shape[2] % self.size_multiple or image.shape[3] % self.size_multiple:
            size = tuple(image.shape[2:])
            raise BuildError(f"conv-stem: size must divide by {self.size_multiple}, got {size}")
        return Features(maps={"stem": self.layers((image - self.mean) / self.std)})


def example(folder: Path) -> Example:
    """Return tiny options and two images."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Example(options={"dim": 4, "stride": 2}, args=(images,))
