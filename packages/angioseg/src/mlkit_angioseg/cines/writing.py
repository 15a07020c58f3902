"""Masks as files, and overlays: a picture with its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_COLOUR = np.array([255, 80, 60], np.float32)
_SHARE = 0.35


def overlay(grey: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `[H, W, 3]` uint8 RGB: the frame with the mask tinted and its outline drawn."""
    picture = np.repeat(np.clip(grey, 0, 1)[..., None] * 255, 3, axis=2)
    picture[mask] = (1 - _SHARE) * picture[mask] + _SHARE * _COLOUR
    picture[mask & ~binary_erosion(mask)] = _COLOUR
    return picture.round().astype(np.uint8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return the mask `[H, W]` of a PNG that `write_mask` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture) > 0


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask as an 8-bit PNG, 0 and 255."""
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)
