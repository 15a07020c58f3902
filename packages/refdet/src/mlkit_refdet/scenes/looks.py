"""How a cut-out looks once pasted, and random looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    Span = tuple[float, float]

_SHARPEST = 15.0  # blur is at most the longest side by this, or nothing of a small object is left


@dataclass(frozen=True)
class Cover:
    """Something that hides one end of an object, with a wavy edge.

    Args:
        angle_deg: Direction towards the hidden end, clockwise from the right.
        share: Of the object's length in that direction.
        wave: Height of the edge's waves, share of that length.
        turns: Waves on that length.
        phase: Of the waves, radians.
    """

    angle_deg: float
    share: float
    wave: float = 0.0
    turns: float = 1.0
    phase: float = 0.0


@dataclass(frozen=True)
class Look:
    """One look of a cut-out.

    Args:
        longest_px: Its longer side before it is turned.
        angle_deg: Clockwise turn.
        corners: x and y by which each corner, clockwise from the upper left, is moved for
            perspective: shares of the longest side.
        blur_px: Standard deviation.
        gains: Factors of red, green and blue.
        contrast: Around its mean colour.
        cover: Hides a part; None: nothing.
    """

    longest_px: float
    angle_deg: float = 0.0
    corners: tuple[float, ...] = (0.0,) * 8
    blur_px: float = 0.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    cover: Cover | None = None


@dataclass(frozen=True)
class LookRanges:
    """From which ranges looks are drawn, evenly.

    Args:
        longest_px: Smallest and largest longer side.
        log_sizes: Whether sizes are even in logarithm, which makes more small ones.
        angle_deg: Least and greatest turn.
        perspective: How far corners move, share of the longest side.
        blur_px: Standard deviation; small objects get less.
        gain: Brightness.
        tint: How far single channels depart from it.
        contrast: Around the mean colour.
        cover_chance: How often a part is hidden.
        cover_share: How much of its length.
    """

    longest_px: Span = (15.0, 110.0)
    log_sizes: bool = False
    angle_deg: Span = (-30.0, 30.0)
    perspective: float = 0.12
    blur_px: Span = (0.0, 1.4)
    gain: Span = (0.55, 1.25)
    tint: float = 0.06
    contrast: Span = (0.75, 1.1)
    cover_chance: float = 0.25
    cover_share: Span = (0.12, 0.45)


def draw_look(ranges: LookRanges, rng: np.random.Generator) -> Look:
    """Return a random look."""
    low, high = ranges.longest_px
    share = rng.random()
    longest = low * (high / low) ** share if ranges.log_sizes else low + (high - low) * share
    gain = rng.uniform(*ranges.gain)
    red, green, blue = gain * (1 + rng.uniform(-ranges.tint, ranges.tint, 3))
    return Look(
        longest_px=longest,
        angle_deg=rng.uniform(*ranges.angle_deg),
        corners=draw_corners(ranges.perspective, rng),
        blur_px=min(rng.uniform(*ranges.blur_px), longest / _SHARPEST),
        gains=(float(red), float(green), float(blue)),
        contrast=rng.uniform(*ranges.contrast),
        cover=_draw_cover(ranges, rng),
    )


def draw_corners(most: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Return movements of the four corners: a keystone, a shear, a narrowing, and a little more.

    Free movements of corners alone look like a crumpled sheet; a view from aside moves corners
    in pairs.

    Args:
        most: Share of the longest side that no coordinate exceeds.
        rng: Gives the randomness.
    """
    keystone_x, keystone_y, shear, narrow_x, narrow_y = rng.uniform(-1, 1, 5) * most * 0.4
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    x, y = signs[:, 0], signs[:, 1]
    moved_x = keystone_x * x * y + shear * y - abs(narrow_x) * x
    moved_y = keystone_y * x * y - abs(narrow_y) * y
    moved = np.stack([moved_x, moved_y], 1) + rng.uniform(-1, 1, (4, 2)) * most * 0.1
    return tuple(float(value) for value in np.clip(moved, -most, most).ravel())


def _draw_cover(ranges: LookRanges, rng: np.random.Generator) -> Cover | None:
    chance, angle, share, wave, turns, phase = rng.random(6)  # always as many, for all ranges
    if chance >= ranges.cover_chance:
        return None
    low, high = ranges.cover_share
    return Cover(
        angle_deg=360 * float(angle),
        share=low + (high - low) * float(share),
        wave=0.06 * float(wave),
        turns=0.5 + 2 * float(turns),
        phase=2 * np.pi * float(phase),
    )
