"""Head `unet-mask`: U-Net's decoder over any encoder of several scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_angioseg.blocks import conv_block
from mlkit_angioseg.heads.levels import Level, fill_levels, read_levels
from mlkit_angioseg.heads.masks import at_input_size, classifier, decode_masks
from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.types import MaskLogits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Features, FeatureSpec, Prediction, Role, SampleMeta

_WIDTHS = {1: 16, 2: 32, 4: 64, 8: 128}
_WIDEST = 256


class UNetMask(nn.Module):
    """Enlarges the coarsest map by two, joins the next finer one, convolves twice, and so on.

    The last step has the input's size, with a map of that size where a stem gives one and without
    any otherwise. Where neighbouring maps differ by more than a factor of two, as a ViT's and a
    stem's do, steps without a map stand between them. Enlarging is by the nearest neighbour.

    Source: Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, with batch norm and padding.

    Args:
        inputs: Role to spec.
        num_classes: 1 gives one logit; more include the background.
        on: Role to read.
        stem: Role with finer maps of the same input, None for none.
        widths: Channels of each step, fine to coarse, from the input's size on; None: 16 at the
            input's size, doubled at every stride, at most 256.
        norm: "batch" or "group".

    Raises:
        BuildError: A role has no maps, or there are not as many widths as steps.
    """

    output_type = MaskLogits

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int = 1,
        on: Role | None = None,
        stem: Role | None = None,
        widths: Sequence[int] | None = None,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        levels = read_levels(inputs, self.on, stem)
        if len(levels) > 1 and len({level.stride for level in levels}) < len(levels):
            shared = ", ".join(f"{level.name} ({level.stride:g})" for level in levels)
            raise BuildError(f"unet-mask takes one map of each stride, got {shared}")
        levels = _to_full_size(levels)
        self.levels, _ = fill_levels(levels, [0] * len(levels))
        steps = self.levels[:-1]
        self.widths = _chosen(steps, widths)
        before = [*self.widths[1:], self.levels[-1].channels]
        self.steps = nn.ModuleList(
            nn.Sequential(
                conv_block(coarser + step.channels, width, norm), conv_block(width, width, norm)
            )
            for step, coarser, width in zip(steps, before, self.widths, strict=True)
        )
        self.classify = classifier(
            self.widths[0] if steps else self.levels[-1].channels, num_classes
        )

    def forward(self, scope: Mapping[Role, Features]) -> MaskLogits:
        """Return logits `[R, num_classes, H, W]` at the input's size."""
        last = self.levels[-1]
        found = scope[last.role or self.on].maps[last.name]
        height, width = (side * last.stride for side in found.shape[2:])
        for level, step in reversed(list(zip(self.levels, self.steps, strict=False))):
            size = (round(height / level.stride), round(width / level.stride))
            up = functional.interpolate(found, size, mode="nearest")
            found = step(up if level.role is None else torch.cat((up, _map(scope, level, size)), 1))
        return at_input_size(self.classify(found), self.levels[0].stride)

    def decode(self, output: MaskLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return one mask of probabilities for each row, in original pixels."""
        return decode_masks(output, meta)


def _to_full_size(levels: Sequence[Level]) -> list[Level]:
    """Return the levels with one of stride 1 in front, without a map where there is none."""
    full = Level(None, "step1", 0, 1)
    return list(levels) if levels[0].stride <= 1 else [full, *levels]


def _chosen(steps: Sequence[Level], widths: Sequence[int] | None) -> list[int]:
    if widths is None:
        return [
            next((w for listed, w in _WIDTHS.items() if step.stride <= listed), _WIDEST)
            for step in steps
        ]
    if len(widths) != len(steps):
        strides = ", ".join(f"{step.stride:g}" for step in steps)
        raise BuildError(f"widths: expected {len(steps)} for strides {strides}, got {len(widths)}")
    return list(widths)


def _map(scope: Mapping[Role, Features], level: Level, size: tuple[int, int]) -> Tensor:
    found = scope[level.role or ""].maps[level.name]
    if tuple(found.shape[2:]) != size:
        got = tuple(found.shape[2:])
        raise BuildError(f"map {level.name!r} of role {level.role!r} is {got}, expected {size}")
    return found
