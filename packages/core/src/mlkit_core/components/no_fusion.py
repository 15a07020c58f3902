"""The fusion that changes nothing: the baseline of every ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mlkit_core.scope import choose_on
from mlkit_core.types import Example, Features, FeatureSpec, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class NoFusion(nn.Module):
    """Passes the features of one role through, extras included.

    Args:
        inputs: Role to spec.
        on: The role; None takes the first of `inputs`.
    """

    def __init__(self, inputs: Mapping[Role, FeatureSpec], on: Role | None = None) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        self.spec = inputs[self.on]

    def forward(self, scope: Mapping[Role, Features]) -> Features:
        """Return the role's features as they are."""
        return scope[self.on]


def none_example(folder: Path) -> Example:
    """Return an image role with two maps."""
    del folder
    spec = FeatureSpec(channels={"p3": 6, "p4": 8}, strides={"p3": 8, "p4": 16})
    maps = {"p3": torch.randn(2, 6, 8, 8), "p4": torch.randn(2, 8, 4, 4)}
    return Example(args=({"image": Features(maps=maps)},), context={"inputs": {"image": spec}})
