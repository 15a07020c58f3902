"""The spatial prior of ViT-Adapter: a small convolutional pyramid over the image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from mlkit_dvis.vit_adapter.deformable import DeformableAttention

if TYPE_CHECKING:
    from torch import Tensor


class SpatialPrior(nn.Module):
    """Convolutions to strides 4, 8, 16 and 32, each brought to the tokens' width.

    Source: Chen et al., "Vision Transformer Adapter for Dense Predictions", ICLR 2023, fig. 4c.

    Args:
        channels: Of the first convolutions.
        dim: Width of the tokens.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, channels, stride=2),
            *_convolution(channels, channels, stride=1),
            *_convolution(channels, channels, stride=1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_convolution(channels, 2 * channels, stride=2))
        self.conv3 = nn.Sequential(*_convolution(2 * channels, 4 * channels, stride=2))
        self.conv4 = nn.Sequential(*_convolution(4 * channels, 4 * channels, stride=2))
        self.fc1 = nn.Conv2d(channels, dim, kernel_size=1)
        self.fc2 = nn.Conv2d(2 * channels, dim, kernel_size=1)
        self.fc3 = nn.Conv2d(4 * channels, dim, kernel_size=1)
        self.fc4 = nn.Conv2d(4 * channels, dim, kernel_size=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the stride-4 map `[B, C, h/4, w/4]`, then tokens `[B, L, C]` of 8, 16, 32."""
        c1 = self.stem(image)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        coarse = (self.fc2(c2), self.fc3(c3), self.fc4(c4))
        return (self.fc1(c1), *(c.flatten(2).transpose(1, 2) for c in coarse))


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def init_like_published(adapter: nn.Module) -> None:
    """Start an adapter as published: normal convolutions by fan-out, small linear layers.

    Deformable attention keeps its own start.
    """
    attention = {
        layer
        for module in adapter.modules()
        if isinstance(module, DeformableAttention)
        for layer in module.children()
    }
    for module in adapter.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            fan_out = area * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear) and module not in attention:
            nn.init.trunc_normal_(module.weight, std=0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
