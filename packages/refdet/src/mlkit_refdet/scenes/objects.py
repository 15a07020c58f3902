"""Kinds of things that lie about where drones fly, each individual with paint of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_refdet.scenes.solids import block, lathe
from mlkit_refdet.scenes.textures import PATTERNS, SIDE, Paint, draw_paint, paint_face

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlkit_refdet.scenes.solids import Face
    from mlkit_refdet.scenes.textures import Floats, Pattern

_Made = list["Face"]
_ON_CONES: tuple[Pattern, ...] = ("rings", "diagonal", "checks", "stripes")
_ON_BALLS: tuple[Pattern, ...] = ("rings", "stripes", "checks", "dots", "diagonal")


def _crate(rng: np.random.Generator) -> _Made:
    wood = draw_paint(rng, hue=float(rng.choice([0.08, 0.1, 0.35, 0.58, 0.0])))
    dark = tuple(0.45 * channel for channel in wood.base)
    paint = Paint(wood.base, (dark[0], dark[1], dark[2]), wood.trim)
    repeats = int(rng.integers(3, 6))
    labelled = [paint_face(paint, "planks", repeats, rng, label=i % 2 == 0) for i in range(4)]
    size = (1.0, rng.uniform(0.7, 1.0), rng.uniform(0.55, 0.95))
    return block(size, labelled, paint_face(paint, "planks", repeats, rng))


def _parcel(rng: np.random.Generator) -> _Made:
    paint, pattern = draw_paint(rng), _pattern(rng)
    repeats = int(rng.integers(2, 5))
    sides = [paint_face(paint, pattern, repeats, rng, label=i == 0) for i in range(4)]
    top = paint_face(paint, pattern, repeats, rng, tape=True, label=rng.random() < 0.5)
    return block((1.0, rng.uniform(0.6, 0.9), rng.uniform(0.3, 0.5)), sides, top)


def _suitcase(rng: np.random.Generator) -> _Made:
    paint, pattern = draw_paint(rng), _pattern(rng)
    repeats = int(rng.integers(2, 6))
    sides = [paint_face(paint, pattern, repeats, rng, tape=True) for _ in range(4)]
    top = paint_face(paint, "plain", 1, rng)
    height = rng.uniform(0.65, 0.85)
    body = block((1.0, rng.uniform(0.28, 0.4), height), sides, top)
    handle = [_plain(paint, rng)] * 4
    return body + block((0.3, 0.06, 0.1), handle, handle[0], offset=(0, 0, height))


def _backpack(rng: np.random.Generator) -> _Made:
    paint, pattern = draw_paint(rng), _pattern(rng)
    repeats = int(rng.integers(2, 5))
    sides = [paint_face(paint, pattern, repeats, rng, tape=i == 2) for i in range(4)]
    top = paint_face(paint, "plain", 1, rng, tape=True)
    body = block((0.72, 0.4, 1.0), sides, top, taper=(0.7, 0.6))
    second = Paint(paint.accent, paint.base, paint.trim)
    pocket = [paint_face(second, "plain", 1, rng, label=i == 0) for i in range(4)]
    size = (rng.uniform(0.4, 0.55), 0.18, rng.uniform(0.35, 0.5))
    return body + block(size, pocket, pocket[1], taper=(0.9, 0.5), offset=(0, -0.28, 0.03))


def _tent(rng: np.random.Generator) -> _Made:
    paint, pattern = draw_paint(rng), _pattern(rng)
    repeats = int(rng.integers(3, 7))
    sides = [paint_face(paint, pattern, repeats, rng) for _ in range(4)]
    sides[1] = paint_face(paint, "plain", 1, rng, tape=True)
    return block(
        (1.2, rng.uniform(0.8, 1.0), rng.uniform(0.5, 0.7)), sides, sides[0], taper=(0.95, 0.04)
    )


def _barrel(rng: np.random.Generator) -> _Made:
    paint, pattern = draw_paint(rng), _pattern(rng)
    wrap = paint_face(paint, pattern, int(rng.integers(3, 7)), rng, label=rng.random() < 0.6)
    bulge = rng.uniform(1.0, 1.2)
    height, radius = rng.uniform(0.85, 1.1), 0.36
    heights = [0, 0.06, 0.3, 0.5, 0.7, 0.94, 1.0]
    factors = [1, 1 + (bulge - 1) / 3, bulge, bulge * 1.02, bulge, 1 + (bulge - 1) / 3, 1]
    profile = [(radius * f, height * z) for f, z in zip(factors, heights, strict=True)]
    return lathe(profile, wrap, _plain(paint, rng))


def _cone(rng: np.random.Generator) -> _Made:
    paint = draw_paint(rng)
    white = (230.0, 230.0, 225.0)
    paint = Paint(paint.base, white if rng.random() < 0.5 else paint.accent, paint.trim)
    wrap = paint_face(paint, _pattern(rng, _ON_CONES), int(rng.integers(2, 6)), rng)
    foot = [_plain(paint, rng)] * 4
    slope = [(0.34 - 0.29 * z, 0.06 + z) for z in (0, 0.25, 0.5, 0.75, 1.0)]
    return block((0.85, 0.85, 0.06), foot, foot[0]) + lathe(slope, wrap, foot[0])


def _ball(rng: np.random.Generator) -> _Made:
    paint = draw_paint(rng)
    wrap = paint_face(paint, _pattern(rng, _ON_BALLS), int(rng.integers(3, 7)), rng)
    turn = np.linspace(-np.pi / 2 + 0.08, np.pi / 2 - 0.08, 11)
    profile = [(0.5 * float(np.cos(t)), 0.5 + 0.5 * float(np.sin(t))) for t in turn]
    return lathe(profile, wrap, _plain(paint, rng))


def _pattern(rng: np.random.Generator, among: Sequence[Pattern] = PATTERNS) -> Pattern:
    return among[int(rng.integers(len(among)))]


def _plain(paint: Paint, rng: np.random.Generator) -> Floats:
    return paint_face(Paint(paint.trim, paint.trim, paint.trim), "plain", 1, rng)[: SIDE // 2]


_MAKERS: dict[str, Callable[[np.random.Generator], _Made]] = {
    "Crate": _crate,
    "Barrel": _barrel,
    "Backpack": _backpack,
    "Cone": _cone,
    "Suitcase": _suitcase,
    "Tent": _tent,
    "Ball": _ball,
    "Parcel": _parcel,
}
KINDS = tuple(_MAKERS)


def make_object(kind: str, rng: np.random.Generator) -> list[Face]:
    """Return an individual of a kind of `KINDS`, about one unit large."""
    return _MAKERS[kind](rng)
