"""Encoder `grey`: the image's grey values themselves, for filters that learn nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec

if TYPE_CHECKING:
    from pathlib import Path

LEVEL = "s1"


class Grey(nn.Module):
    """Publishes the mean of RGB 0..1 as the map "s1" `[R, 1, H, W]`; it has no parameters."""

    size_multiple = 1
    pad_rgb = (0.0, 0.0, 0.0)  # as dark as a collimator, which filters leave out

    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(channels={LEVEL: 1}, strides={LEVEL: 1})
        self.input_shape: tuple[int | None, ...] = (3, None, None)

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, H, W]`."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise BuildError(f"grey takes [R, 3, H, W], got {tuple(x.shape)}")
        return Features(maps={LEVEL: x.mean(1, keepdim=True)})


def example(folder: Path) -> Example:
    """Return two images."""
    del folder
    return Example(args=(torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)),))
