"""Sine position embeddings that are computed once for a size, not for every frame."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

_KEPT = 12  # sizes of maps: three levels each of four sizes of frames


class CachedPositions(Mask2FormerSinePositionEmbedding):
    """transformers' normalised sine embedding of places; equal in every row.

    Args:
        features: Of one axis.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, normalize=True)

    def forward(
        self,
        shape: torch.Size,
        device: torch.device | str,
        dtype: torch.dtype,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return `[R, 2 * features, h, w]`, y before x, for maps of a shape `[R, C, h, w]`.

        The mask is transformers' and None: frames are padded before the backbone.
        """
        rows, _, height, width = shape
        positions = _positions(self.num_position_features, height, width, device, dtype)
        return positions.expand(rows, -1, -1, -1)


@lru_cache(maxsize=_KEPT)
def _positions(
    features: int, height: int, width: int, device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    embedding = Mask2FormerSinePositionEmbedding(features, normalize=True)
    with torch.inference_mode(mode=False), torch.no_grad():  # training may use it after a test
        return embedding(torch.Size((1, 1, height, width)), device, dtype)
