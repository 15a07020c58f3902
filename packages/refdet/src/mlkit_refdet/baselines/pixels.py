"""Encoder `pixels`: the image itself, for heads that compare pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

LEVEL = "p0"
_GREY = 114 / 255


class Pixels(nn.Module):
    """Publishes RGB 0..1 as the map "p0" of stride 1. It has no parameters and loads nothing."""

    size_multiple = 1
    pad_rgb = (_GREY, _GREY, _GREY)

    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(channels={LEVEL: 3}, strides={LEVEL: 1})
        self.input_shape: tuple[int | None, ...] = (3, None, None)

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, H, W]`."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise BuildError(f"pixels takes [R, 3, H, W], got {tuple(x.shape)}")
        return Features(maps={LEVEL: x})


def example(folder: Path) -> Example:
    """Return two images."""
    del folder
    return Example(args=(torch.rand(2, 3, 32, 48),))
