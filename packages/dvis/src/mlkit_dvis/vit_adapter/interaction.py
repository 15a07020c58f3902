"""What the adapter's tokens do at each stage of the ViT: read it, then mix among themselves."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_dvis.vit_adapter.deformable import DeformableAttention
from mlkit_dvis.vit_adapter.vit import LAYER_NORM_EPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.vit_adapter.deformable import Size

_EXTRA = 2  # extractors after the last stage's own
_norm = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)


class DepthwiseConv(nn.Module):
    """One depthwise 3x3 convolution over the maps of all three grids.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return tokens `[B, L, C]`, each grid convolved by itself."""
        parts = tokens.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        maps = (p.unflatten(2, size) for p, size in zip(parts, sizes, strict=True))
        return torch.cat([self.dwconv(m).flatten(2) for m in maps], dim=2).transpose(1, 2)


class ConvFeedForward(nn.Module):
    """A feed-forward net with a depthwise convolution before its nonlinearity.

    Args:
        dim: Width of the tokens.
        hidden: Width between the two linear layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return tokens `[B, L, C]`."""
        return self.fc2(functional.gelu(self.dwconv(self.fc1(tokens), sizes)))


class Extractor(nn.Module):
    """Pyramid tokens read ViT tokens, then pass a feed-forward net; both with residuals.

    Source: Chen et al., "Vision Transformer Adapter for Dense Predictions", ICLR 2023, eq. 2-3.

    Args:
        dim: Width of all tokens.
        heads: Of the deformable attention.
        points: That each head reads.
        ratio: Hidden width of the feed-forward net by `dim`.
    """

    def __init__(self, dim: int, heads: int, points: int, ratio: float) -> None:
        super().__init__()
        self.query_norm = _norm(dim)
        self.feat_norm = _norm(dim)
        self.attn = DeformableAttention(dim, heads, points)
        self.ffn_norm = _norm(dim)
        self.ffn = ConvFeedForward(dim, int(dim * ratio))

    def forward(self, tokens: Tensor, x: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return the pyramid's tokens `[B, L, C]`.

        Args:
            tokens: `[B, L, C]`, the pyramid's, strides 8, 16, 32.
            x: `[B, H * W, C]`, the ViT's, stride 16.
            centres: `[L, 2]` of the pyramid's tokens.
            sizes: Height and width of the pyramid's three grids.
        """
        values = self.feat_norm(x)
        tokens = tokens + self.attn(self.query_norm(tokens), centres, values, sizes[1])
        return tokens + self.ffn(self.ffn_norm(tokens), sizes)


class Interaction(nn.Module):
    """One stage's extractor; the last stage has two more.

    Args:
        dim: Width of all tokens.
        heads: Of the deformable attention.
        points: That each head reads.
        ratio: Hidden width of the feed-forward nets by `dim`.
        extra: Whether this is the last stage.
    """

    def __init__(self, dim: int, heads: int, points: int, ratio: float, *, extra: bool) -> None:
        super().__init__()
        self.extractor = Extractor(dim, heads, points, ratio)
        more = range(_EXTRA if extra else 0)
        self.extra_extractors = nn.ModuleList(Extractor(dim, heads, points, ratio) for _ in more)

    def forward(self, tokens: Tensor, x: Tensor, centres: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return the pyramid's tokens; arguments as of `Extractor`."""
        tokens = self.extractor(tokens, x, centres, sizes)
        for extractor in self.extra_extractors:
            tokens = extractor(tokens, x, centres, sizes)
        return tokens
