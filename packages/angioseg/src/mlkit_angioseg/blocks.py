"""Convolution blocks that stem and heads share."""

from __future__ import annotations

import math

from torch import nn


def norm_layer(norm: str, channels: int) -> nn.Module:
    """Return BatchNorm, or GroupNorm with at most 8 groups."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    raise ValueError(f"norm must be batch or group, got {norm!r}")


def conv_block(before: int, after: int, norm: str, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, norm and ReLU: `[R, before, H, W]` to `[R, after, H/s, W/s]`."""
    conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, norm_layer(norm, after), nn.ReLU(inplace=True))
