"""The axis `head`: a mask head at about 0.1, 0.4 and 1.6 million parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mlkit_angioseg.heads.conv_mask import ConvMask
from mlkit_angioseg.heads.fpn_mask import FpnMask
from mlkit_angioseg.heads.unet_mask import UNetMask
from mlkit_core.build import build_data, build_stage_model
from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from mlkit_core.config.frame import StageConfig
    from mlkit_core.model import Model

Options = dict[str, Any]
SIZES: Mapping[str, int] = {"small": 100_000, "middle": 400_000, "large": 1_600_000}
_MOST = 4096  # steps of the search
_STEP = 128  # of them are the widths as they are
_OFF = 1.25  # a head further off than this factor would not be what its name says


def parameter_count(module: nn.Module | None) -> int:
    """Return the number of all parameters."""
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def head_options(size: str, stage: StageConfig) -> Options:
    """Return the options that bring a stage's head nearest to a size.

    Args:
        size: A key of `SIZES`.
        stage: The base's; its model is built once, for the widths that its encoders publish.

    Raises:
        BuildError: It is no head with widths, or none of them comes near the size.
    """
    if stage.data is None or stage.head is None:
        raise BuildError("the run file has no data or no head")
    model = build_stage_model(stage, build_data(stage.data))
    made = _makers(model, stage.head.options)

    def count(step: int) -> int:
        return parameter_count(made[1](made[0](step)))

    wanted = SIZES[size]
    step = _nearest(count, wanted)
    got = count(step)
    if not wanted / _OFF <= got <= wanted * _OFF:
        raise BuildError(
            f"{stage.head.name!r} comes no nearer to {wanted:,} than {got:,}",
            hint="its first convolution alone is larger; lower model.head.dim" * (got > wanted),
        )
    return made[0](step)


def _makers(
    model: Model, given: Mapping[str, Any]
) -> tuple[Callable[[int], Options], Callable[[Options], nn.Module]]:
    """Return what makes options of a step, and what makes a head of options."""
    head = model.head
    if isinstance(head, ConvMask):
        options = _conv_options
    elif isinstance(head, FpnMask | UNetMask):
        widths = head.widths

        def options(step: int) -> Options:
            return {"widths": [max(2, 2 * round(width * step / _STEP / 2)) for width in widths]}

    else:
        name = type(head).__name__
        raise BuildError(f"sizes are of conv-mask, fpn-mask and unet-mask, the base has {name}")
    kind, classes = type(head), head.classify.out_channels

    def make(changed: Options) -> nn.Module:
        with torch.device("meta"):  # counted, never run
            return kind(
                model.specs, num_classes=classes, **{**dict(given), "on": head.on, **changed}
            )

    return options, make


def _conv_options(step: int) -> Options:
    return {"hidden": [2 * step, step]}


def _nearest(count: Callable[[int], int], wanted: int) -> int:
    """Return the step whose count is nearest; counts grow with steps."""
    low, high = 1, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= wanted else (low, middle)
    return min((low, high), key=lambda step: abs(count(step) - wanted))
