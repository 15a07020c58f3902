"""Where a mask is, as a vector; and how a track's position follows its masks.

Source: Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 9  # raw positions that a new one is compared with
_NO_AREA = 1e-8


def masked_means(masks: Tensor, features: Tensor) -> Tensor:
    """Return the mean feature within each hard mask, `[N, C]`; zero where a mask is empty.

    Args:
        masks: `[N, P]` logits over pixels; inside is above zero, a probability above one half.
        features: `[C, P]`.
    """
    inside = (masks > 0).to(features.dtype)
    area = inside.sum(1, keepdim=True)
    return (inside @ features.T) / (area + _NO_AREA)


@dataclass(frozen=True)
class PositionMemory:
    """The fused position of each row, and the last raw ones that it was fused from.

    Args:
        fused: `[n, C]`.
        raw: `[n, 9, C]`, the newest last; zero where there was none yet.
        count: `[n]` int64, how many raw positions a row has had.
    """

    fused: Tensor
    raw: Tensor
    count: Tensor

    @classmethod
    def empty(cls, rows: int, like: Tensor) -> PositionMemory:
        """Return the memory of rows that were never seen; `like` `[..., C]` gives the width."""
        dim = like.shape[-1]
        return cls(
            like.new_zeros(rows, dim),
            like.new_zeros(rows, MEMORY, dim),
            torch.zeros(rows, dtype=torch.int64, device=like.device),
        )

    def select(self, rows: Tensor) -> PositionMemory:
        """Return the memory of the rows `[m]`, in their order."""
        return PositionMemory(self.fused[rows], self.raw[rows], self.count[rows])

    def joined(self, other: PositionMemory) -> PositionMemory:
        """Return the memory of these rows, then the others'."""
        return PositionMemory(
            torch.cat([self.fused, other.fused]),
            torch.cat([self.raw, other.raw]),
            torch.cat([self.count, other.count]),
        )

    def fuse(self, positions: Tensor, seen: Tensor) -> PositionMemory:
        """Return the memory after the rows that were seen took a new raw position.

        Args:
            positions: `[n, C]`, raw.
            seen: `[n]` bool; the other rows stay as they are.
        """
        share = fusion_share(positions, self.raw, self.count)[:, None]
        fused = (1 - share) * self.fused + share * positions
        raw = torch.cat([self.raw[:, 1:], positions[:, None]], 1)
        return PositionMemory(
            torch.where(seen[:, None], fused, self.fused),
            torch.where(seen[:, None, None], raw, self.raw),
            self.count + seen,
        )


def fusion_share(positions: Tensor, raw: Tensor, count: Tensor) -> Tensor:
    """Return how much of the new position enters the fused one, `[n]`, 0..1.

    It is the mean cosine with up to nine earlier raw positions, at least 0, and 1 for a row's first
    position.

    Args:
        positions: `[n, C]`, the new ones.
        raw: `[n, 9, C]`, the newest last.
        count: `[n]`, how many raw positions a row has had.
    """
    known = torch.arange(MEMORY, device=count.device) >= MEMORY - count[:, None]  # [n, 9]
    likeness = F.cosine_similarity(positions[:, None], raw, dim=-1)
    mean = (likeness * known).sum(1) / known.sum(1).clamp_min(1)
    return torch.where(count > 0, mean.clamp_min(0), torch.ones_like(mean))
