"""The target of vessel segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.types import MaskTarget

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VesselTarget(MaskTarget):
    """Vessel masks at the input's size, and in evaluation also at the original size.

    Args:
        original: One mask `[H, W]` in original pixels for each row, bool, or uint8 labels; empty in
            training.
        original_valid: Which of those pixels count, `[H, W]` bool for each row; empty: all.
    """

    original: tuple[Tensor, ...] = ()
    original_valid: tuple[Tensor, ...] = ()
