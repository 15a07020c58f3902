"""Encoder `asked-classes`: passes on which classes an image is searched for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, FeatureSpec
from mlkit_refdet.features import AskedFeatures

if TYPE_CHECKING:
    from pathlib import Path


class AskedClasses(nn.Module):
    """Publishes rows `[B, W]` unchanged: indices of the support's classes, -1 for none.

    A user or a sampler asks; an image's labels never do. What is in the support and not asked
    serves losses that compare with every prototype.
    """

    input_shape = (None,)

    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(vector_dim=1, type=AskedFeatures)

    def forward(self, asked: Tensor) -> AskedFeatures:
        """Return the rows as they came."""
        if asked.ndim != 2:
            raise BuildError(f"asked-classes takes rows [B, W], got {tuple(asked.shape)}")
        return AskedFeatures(vector=asked)


def example(folder: Path) -> Example:
    """Return one question of each of two images."""
    del folder
    return Example(args=(torch.tensor([[0.0], [1.0]]),))
