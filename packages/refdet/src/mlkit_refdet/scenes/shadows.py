"""Soft shadows on the ground."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mlkit_refdet.scenes.compose import Layer

_DARK = 0.45


def shadow(layer: Layer, length_px: float, angle_deg: float = 35.0) -> Layer:
    """Return a layer's shadow, to be laid beneath it; it is nobody's object.

    Args:
        layer: What casts it.
        length_px: How far it is moved.
        angle_deg: Whereto, clockwise from the right.
    """
    soft = max(0.3 * length_px, 0.5)
    rim = int(np.ceil(3 * soft))
    alpha = ndimage.gaussian_filter(np.pad(layer.alpha, rim), soft, mode="constant") * _DARK
    turn = np.deg2rad(angle_deg)
    right, down = round(length_px * np.cos(turn)), round(length_px * np.sin(turn))
    black = np.zeros((*alpha.shape, 3), np.float32)
    left, top = layer.left - rim + right, layer.top - rim + down
    return Layer(black, alpha.astype(np.float32), left, top, float(alpha.sum()))
