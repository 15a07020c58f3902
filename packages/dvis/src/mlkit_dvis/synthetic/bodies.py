"""Bodies of four kinds, drawn into their own square by distance and texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

CLASSES = ("fish", "crab", "jellyfish", "snail")


@dataclass(frozen=True)
class Body:
    """What an animal looks like, apart from where it is.

    Args:
        kind: One of `CLASSES`.
        colours: Two of RGB 0..1, `[2, 3]`.
        stretch: Length by height.
        seed: Of its texture's phase.
        frequency: Of the texture, cycles over the body.
    """

    kind: str
    colours: Floats
    stretch: float
    seed: float
    frequency: float


def random_body(kind: str, rng: np.random.Generator) -> Body:
    """Return an animal of a kind with colours and texture of its own."""
    base = {"fish": 0.07, "crab": 0.01, "jellyfish": 0.75, "snail": 0.28}[kind]
    hue = (base + rng.normal(0, 0.05)) % 1
    first = _rgb(hue, 0.55 + 0.35 * rng.random(), 0.75 + 0.25 * rng.random())
    second = _rgb((hue + 0.08) % 1, 0.4 + 0.4 * rng.random(), 0.35 + 0.3 * rng.random())
    stretch = {"fish": 1.9, "crab": 1.35, "jellyfish": 0.85, "snail": 1.1}[kind]
    return Body(
        kind=kind,
        colours=np.stack([first, second]),
        stretch=stretch * rng.uniform(0.9, 1.12),
        seed=rng.uniform(0, 2 * np.pi),
        frequency=rng.uniform(3.0, 5.0),
    )


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    """Return RGB of a hue 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)


def outline(body: Body, x: Floats, y: Floats, phase: float) -> Floats:
    """Return a signed distance, roughly in units of the body's height: negative inside.

    Args:
        body: The animal.
        x: Along it, from -1 (tail) to 1 (head) and beyond.
        y: Across it, downwards.
        phase: Of its movement, radians.
    """
    if body.kind == "fish":
        return _fish(x, y, phase)
    if body.kind == "crab":
        return _crab(x, y, phase)
    if body.kind == "jellyfish":
        return _jellyfish(x, y, phase)
    return _snail(x, y, phase)


def _ellipse(x: Floats, y: Floats, width: float, height: float) -> Floats:
    return (np.hypot(x / width, y / height) - 1) * min(width, height)


def _fish(x: Floats, y: Floats, phase: float) -> Floats:
    bend = 0.16 * np.sin(phase) * np.clip(-x, 0, 1.5)
    trunk = _ellipse(x - 0.15, y - bend * 0.5, 0.8, 0.42)
    tail = np.maximum(np.abs(y - bend) - 0.42 * (-x - 0.45), np.maximum(-x - 1.0, x + 0.45))
    fin = np.maximum(np.maximum(-y - 0.66, y + 0.2), np.abs(x + 0.1 - 0.4 * (y + 0.66)) - 0.26)
    return np.minimum(np.minimum(trunk, tail), fin)


def _crab(x: Floats, y: Floats, phase: float) -> Floats:
    shell = _ellipse(x, y, 0.62, 0.42)
    found = shell
    for side in (-1, 1):
        for leg in range(3):
            swing = 0.1 * np.sin(phase + 2.1 * leg + side)
            foot = (side * (0.72 + 0.1 * leg), 0.55 - 0.18 * leg + swing)
            found = np.minimum(found, _capsule(x, y, (side * 0.35, 0.15), foot, 0.11))
        claw = (side * (0.72 + 0.05 * np.sin(phase)), -0.55)
        found = np.minimum(found, _capsule(x, y, (side * 0.4, -0.2), claw, 0.11))
        found = np.minimum(found, _ellipse(x - claw[0], y - claw[1], 0.24, 0.2))
    return found


def _capsule(
    x: Floats, y: Floats, start: tuple[float, float], end: tuple[float, float], radius: float
) -> Floats:
    along = np.array(end) - np.array(start)
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / (along @ along)
    share = np.clip(share, 0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1]) - radius


def _jellyfish(x: Floats, y: Floats, phase: float) -> Floats:
    wide = 0.62 * (1 + 0.12 * np.sin(phase))
    dome = np.maximum(_ellipse(x, y + 0.1, wide, 0.72), y - 0.05)
    found = dome
    for arm in range(3):
        root = wide * (-0.6 + 0.6 * arm)
        sway = root + 0.1 * np.sin(phase + 4 * y + arm)
        found = np.minimum(found, np.maximum(np.abs(x - sway) - 0.13, np.maximum(-y, y - 0.8)))
    return found


def _snail(x: Floats, y: Floats, phase: float) -> Floats:
    shell = _ellipse(x + 0.12, y + 0.12, 0.52, 0.5)
    foot = _ellipse(x - 0.08, y - 0.42, 0.85 + 0.05 * np.sin(phase), 0.17)
    horn = _capsule(x, y, (0.68, 0.35), (0.84, -0.1 + 0.06 * np.sin(phase)), 0.1)
    return np.minimum(np.minimum(shell, foot), horn)


def paint(body: Body, x: Floats, y: Floats) -> Floats:
    """Return the body's colours, `[..., 3]` RGB 0..1, with a pattern of its kind and an eye."""
    turns = body.frequency * np.pi
    if body.kind == "fish":
        pattern = np.sin(turns * x + body.seed)
    elif body.kind == "crab":
        pattern = np.sin(turns * x + body.seed) * np.sin(turns * y)
    elif body.kind == "jellyfish":
        pattern = np.cos(turns * np.hypot(x, y + 0.5) + body.seed)
    else:
        pattern = np.sin(2 * np.arctan2(y + 0.12, x + 0.12) + turns * np.hypot(x + 0.12, y + 0.12))
    mix = (0.5 + 0.5 * np.clip(2.5 * pattern, -1, 1))[..., None]
    colours = mix * body.colours[0] + (1 - mix) * body.colours[1]
    colours = colours * (1.08 - 0.3 * np.clip(y, -1, 1))[..., None]  # light from above
    if body.kind in ("fish", "snail"):
        place = (0.55, -0.08) if body.kind == "fish" else (0.86, -0.1)
        eye = np.hypot(x - place[0], y - place[1])
        colours[eye < 0.12] = (0.97, 0.97, 0.93)
        colours[eye < 0.06] = (0.05, 0.05, 0.08)
    return np.clip(colours, 0, 1)
