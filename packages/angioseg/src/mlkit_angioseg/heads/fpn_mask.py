"""Head `fpn-mask`: a mask from all maps of a role, merged from coarse to fine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_angioseg.blocks import conv_block, norm_layer
from mlkit_angioseg.heads.levels import choose_widths, fill_levels, read_levels
from mlkit_angioseg.heads.masks import at_input_size, classifier, decode_masks
from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.types import Example, Features, FeatureSpec, MaskLogits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Prediction, Role, SampleMeta


class Merge(nn.Module):
    """Joins the coarser result `[R, C_up, h, w]` with a finer map, by addition or concatenation."""

    def __init__(self, coarser: int, lateral: int, width: int, merge: str, norm: str) -> None:
        super().__init__()
        self.adds = merge == "add" and lateral > 0
        self.reduce = nn.Conv2d(coarser, width, 1) if self.adds else nn.Identity()
        self.lateral = nn.Conv2d(lateral, width, 1) if self.adds else None
        self.block = conv_block(width if self.adds else coarser + lateral, width, norm)

    def forward(self, coarser: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return `[R, width, *size]`; without a finer map the coarser one is only enlarged."""
        mode = "bilinear" if self.adds or finer is None else "nearest"
        up = functional.interpolate(self.reduce(coarser), size, mode=mode)
        if finer is None:
            return self.block(up)
        if self.lateral is not None:
            return self.block(self.lateral(finer) + up)
        return self.block(torch.cat((finer, up), dim=1))


class FpnMask(nn.Module):
    """Merges all maps of a role, and of a finer stem, down to the finest one.

    Where neighbouring maps differ by more than a factor of two, steps of two without a map are put
    between them. Addition follows Lin et al., "Feature Pyramid Networks", CVPR 2017;
    concatenation Ronneberger et al., "U-Net", MICCAI 2015.

    Args:
        inputs: Role to spec.
        num_classes: 1 gives one logit; more include the background.
        on: Role to read.
        stem: Role with finer maps of the same input, None for none.
        merge: "add" or "concat".
        widths: Channels for each map, fine to coarse; None: 16 to 128 by stride, at most the map's.
        norm: "batch" or "group".
        dropout: Of whole channels of the coarsest level.
    """

    output_type = MaskLogits

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int = 1,
        on: Role | None = None,
        stem: Role | None = None,
        merge: str = "add",
        widths: Sequence[int] | None = None,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if merge not in ("concat", "add"):
            raise ValueError(f"merge must be concat or add, got {merge!r}")
        self.on = choose_on(inputs, on)
        levels = read_levels(inputs, self.on, stem)
        self.widths = choose_widths(levels, widths)
        self.levels, chosen = fill_levels(levels, self.widths)
        self.top = nn.Sequential(
            nn.Conv2d(self.levels[-1].channels, chosen[-1], 1, bias=False),
            norm_layer(norm, chosen[-1]),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )
        self.merges = nn.ModuleList(
            Merge(chosen[i + 1], level.channels, chosen[i], merge, norm)
            for i, level in enumerate(self.levels[:-1])
        )
        self.classify = classifier(chosen[0], num_classes)

    def forward(self, scope: Mapping[Role, Features]) -> MaskLogits:
        """Return logits `[R, num_classes, H, W]` at the input's size."""
        last = self.levels[-1]
        coarsest = scope[last.role or self.on].maps[last.name]
        height, width = (side * last.stride for side in coarsest.shape[2:])
        merged = self.top(coarsest)
        for i in reversed(range(len(self.merges))):
            level = self.levels[i]
            size = (round(height / level.stride), round(width / level.stride))
            finer = scope[level.role].maps[level.name] if level.role else None
            if finer is not None and tuple(finer.shape[2:]) != size:
                raise BuildError(
                    f"map {level.name!r} of role {level.role!r} is {tuple(finer.shape[2:])}, "
                    f"expected {size} of an input {(height, width)}"
                )
            merged = self.merges[i](merged, finer, size)
        return at_input_size(self.classify(merged), self.levels[0].stride)

    def decode(self, output: MaskLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return one mask of probabilities for each row, in original pixels."""
        return decode_masks(output, meta)


def example(folder: Path) -> Example:
    """Return tiny options and a scope with two maps and a stem."""
    generator = torch.Generator().manual_seed(0)
    maps = {f"s{s}": torch.rand(2, 6, 32 // s, 32 // s, generator=generator) for s in (4, 16)}
    stem = {"stem": torch.rand(2, 4, 16, 16, generator=generator)}
    inputs = {
        "image": FeatureSpec(channels={"s4": 6, "s16": 6}, strides={"s4": 4, "s16": 16}),
        "stem": FeatureSpec(channels={"stem": 4}, strides={"stem": 2}),
    }
    return Example(
        options={"stem": "stem"},
        args=({"image": Features(maps=maps), "stem": Features(maps=stem)},),
        context={"inputs": inputs, "num_classes": 1, "on": "image"},
    )
