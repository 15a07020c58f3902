"""How an image relates to a class: attention, channel and spatial correlation, level by level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_refdet.encoders.projection import ChannelNorm, unit

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Asked:
    """The classes that images are searched for, gathered by pair; B images, W classes each.

    Args:
        protos: `[B, W, D]`, unit length.
        tokens: `[B, W, S, D]`, of all shots.
        real: `[B, W, S]` bool, tokens of real shots.
    """

    protos: Tensor
    tokens: Tensor
    real: Tensor


class CrossAttention(nn.Module):
    """Query positions attend to the class's tokens: `[B, D, h, w]` to `[B, W, D, h, w]`.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query, self.to_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_key_value = nn.Linear(dim, 2 * dim)

    def forward(self, embed: Tensor, asked: Asked) -> Tensor:
        """Return what each position gathers from the photos."""
        images, classes, count, dim = asked.tokens.shape
        height, width = embed.shape[2:]
        query = self.to_query(embed.flatten(2).transpose(1, 2))  # [B, hw, D]
        query = query.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, hw, d]
        query = query[:, None].expand(-1, classes, -1, -1, -1).flatten(0, 1)  # [B * W, heads, …]
        key, value = (
            part.reshape(images * classes, count, self.heads, -1).transpose(1, 2)
            for part in self.to_key_value(asked.tokens).chunk(2, dim=-1)
        )
        # A class without a real shot attends to all: a softmax over nothing is not a number.
        real = asked.real | ~asked.real.any(-1, keepdim=True)
        mask = real.reshape(images * classes, 1, 1, count)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found = self.to_out(found.transpose(1, 2).flatten(2))  # [B * W, hw, D]
        return found.transpose(1, 2).reshape(images, classes, dim, height, width)


def likeness_maps(embed: Tensor, asked: Asked) -> Tensor:
    """Return cosines with the prototype and with the nearest token, `[B, W, 2, h, w]`.

    Args:
        embed: `[B, D, h, w]`.
        asked: Prototypes and tokens.
    """
    places = unit(embed.flatten(2), 1)  # [B, D, hw]
    whole = torch.einsum("bwd,bdx->bwx", asked.protos, places)
    parts = torch.einsum("bwsd,bdx->bwsx", unit(asked.tokens), places)
    parts = parts.masked_fill(~asked.real.unsqueeze(-1), -1.0).amax(2)
    return torch.stack((whole, parts), 2).unflatten(3, embed.shape[2:])


class LevelFusion(nn.Module):
    """One level: a 1x1 projection of the query, and what the class changes of it.

    It starts as the projection alone: every way in for the class ends in weights of zero.

    Args:
        dim: Of embeddings.
        channels: Of the fused map.
        heads: Of the attention.
        attention: Whether positions attend to tokens.
        channel: Whether channels are correlated, and scaled and shifted by the prototype.
        spatial: Whether maps of likeness are joined.
    """

    def __init__(
        self, dim: int, channels: int, heads: int, *, attention: bool, channel: bool, spatial: bool
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(dim, channels, 1)
        start_as_identity(self.project)
        self.attention = CrossAttention(dim, heads) if attention else None
        self.film = nn.Linear(dim, 2 * channels) if channel else None
        self.spatial = spatial
        width = dim * (int(attention) + int(channel)) + 2 * int(spatial)
        self.mix = (
            nn.Sequential(
                JoinedConv(width, channels, 1),
                ChannelNorm(channels),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 1),
            )
            if width
            else None
        )
        self.local = ShortLong(channels)
        for last in (self.film, self.mix[-1] if self.mix is not None else None):
            if last is not None:
                nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]  # a layer's
                nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]  # a layer's

    def forward(self, embed: Tensor, asked: Asked) -> Tensor:
        """Return fused maps of all pairs, `[B * W, C, h, w]`."""
        base = self.project(embed)[:, None].expand(
            -1, asked.protos.shape[1], -1, -1, -1
        )  # [B, W, C, h, w]
        joined: list[Tensor] = []
        if self.attention is not None:
            joined.append(self.attention(embed, asked))
        if self.film is not None:
            joined.append(embed[:, None] * asked.protos[..., None, None] * embed.shape[1] ** 0.5)
            gamma, beta = self.film(asked.protos)[..., None, None].chunk(2, dim=2)
            base = base * (1 + gamma) + beta
        if self.spatial:
            joined.append(likeness_maps(embed, asked))
        fused = base.flatten(0, 1)
        if self.mix is not None:
            fused = fused + self.mix([part.flatten(0, 1) for part in joined])
        return self.local(fused)


class JoinedConv(nn.Conv2d):
    """1x1 convolution of maps as if they were joined along channels, without joining them.

    130 channels fit no block of a CPU's convolution: joined they take longer than in parts.
    """

    def forward(self, input: Sequence[Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # parts
        """Return `[R, C, h, w]` of maps `[R, c, h, w]`, whose c sum up to the layer's width."""
        found, start = None, 0
        for part in input:
            weight = self.weight[:, start : start + part.shape[1]]
            start += part.shape[1]
            if found is None:
                found = functional.conv2d(part, weight, self.bias)
            else:
                found = found + functional.conv2d(part, weight)
        if found is None or start != self.in_channels:
            raise ValueError(f"maps of {start} channels in all, expected {self.in_channels}")
        return found


class ShortLong(nn.Module):
    """Depthwise 3x3 and 5x5 convolutions side by side, joined as a residual that starts at zero.

    Source: after the short-long convolution of Liu et al., "CHELA", arXiv:2406.08128; unlike there,
    the two run side by side.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.long = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.join = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)  # pyright: ignore[reportArgumentType]  # it has one

    def forward(self, values: Tensor) -> Tensor:
        """Return values of the same shape."""
        mixed = functional.silu(self.norm(self.short(values) + self.long(values)))
        return values + self.join(mixed)


def start_as_identity(layer: nn.Conv2d) -> None:
    """Set a 1x1 convolution to copy the channels that both sides have, and to drop the rest."""
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(min(layer.weight.shape[:2])):
            layer.weight[channel, channel] = 1.0
        if layer.bias is not None:
            layer.bias.zero_()
