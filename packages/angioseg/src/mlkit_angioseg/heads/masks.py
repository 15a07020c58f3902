"""What both mask heads share: the maps they read, and the way back to original pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_angioseg.frames.letterbox import to_original
from mlkit_core.errors import BuildError
from mlkit_core.types import MaskLogits, MaskPrediction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import FeatureSpec, Prediction, Role, SampleMeta

_PRIOR = 0.05  # vessels cover some 3 to 5 % of an angiogram


def check_maps(role: Role, inputs: Mapping[Role, FeatureSpec]) -> FeatureSpec:
    """Return the spec of a role that has maps of plain rows.

    Raises:
        BuildError: The role is unknown, has no map, or has a lead.
    """
    if role not in inputs:
        raise BuildError(f"no role {role!r}; there are {', '.join(inputs) or 'none'}")
    spec = inputs[role]
    if not spec.channels:
        raise BuildError(f"role {role!r} has no maps, which a mask is made from")
    if spec.lead:
        raise BuildError(f"role {role!r} has lead ({', '.join(spec.lead)}); masks need plain rows")
    return spec


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Return the last 1x1 convolution; one class starts at the share of vessel pixels."""
    layer = nn.Conv2d(channels, num_classes, 1)
    if num_classes == 1 and layer.bias is not None:
        nn.init.constant_(layer.bias, math.log(_PRIOR / (1 - _PRIOR)))
    return layer


def at_input_size(logits: Tensor, stride: float) -> MaskLogits:
    """Return logits of a map of this stride, bilinear, at the input's size."""
    if stride > 1:
        size = (round(logits.shape[2] * stride), round(logits.shape[3] * stride))
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    return MaskLogits(logits)


def decode_masks(output: MaskLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
    """Return probabilities in original pixels on the CPU, `[H, W]` or `[C, H, W]` for C classes.

    Padding is cut off before logits are resized, so that it cannot bleed into the border.
    """
    if len(meta) != output.logits.shape[0]:
        raise BuildError(f"{output.logits.shape[0]} rows of logits for {len(meta)} rows of meta")
    predictions: list[Prediction] = []
    for logits, item in zip(output.logits.detach().cpu(), meta, strict=True):
        original = to_original(logits, item)  # [C, H, W]
        one = original.shape[0] == 1
        predictions.append(
            MaskPrediction(torch.sigmoid(original[0]) if one else original.softmax(0))
        )
    return predictions
