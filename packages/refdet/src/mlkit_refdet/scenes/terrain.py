"""Ground as a drone sees it: fields of photographed textures, roads and bushes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_refdet.scenes.compose import compose, render
from mlkit_refdet.scenes.looks import Look
from mlkit_refdet.scenes.shadows import shadow
from mlkit_refdet.scenes.textures import natural_field, smooth_noise

if TYPE_CHECKING:
    from mlkit_refdet.scenes.compose import Layer, Pixels
    from mlkit_refdet.scenes.textures import Floats, Natural

# Texture, colour RGB, how much of the texture's contrast is kept.
_GROUNDS: tuple[tuple[Natural, tuple[int, int, int], float], ...] = (
    ("grass", (88, 118, 58), 1.0),
    ("grass", (118, 128, 66), 1.0),
    ("grass", (150, 136, 88), 0.9),
    ("gravel", (142, 134, 122), 0.9),
    ("gravel", (122, 96, 72), 0.5),
    ("brick", (150, 140, 132), 0.8),
    ("gravel", (176, 166, 146), 0.35),
)
_PERIODS: dict[Natural, float] = {"grass": 0.28, "gravel": 0.22, "brick": 0.16}  # by the width
_ASPHALT, _LINE = (92, 92, 96), (214, 212, 204)
_FIELDS, _WIDTH = (5, 10), (0.045, 0.075)  # how many; of a road, share of the ground's height


def ground(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Return ground from above, `[H, W, 3]` uint8.

    Args:
        size: Height and width in pixels.
        rng: Gives all randomness.
    """
    picture = _fields(size, rng)
    for _ in range(int(rng.integers(1, 3))):
        _add_road(picture, rng)
    picture *= (1 + 0.06 * smooth_noise(size, min(size) / 3, rng))[..., None]
    pixels = picture.clip(0, 255).astype(np.uint8)
    return _with_bushes(pixels, rng)


def _fields(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return patches around random points, their borders bent by noise."""
    height, width = size
    rows, columns = np.indices(size, np.float32)
    bend = 0.06 * min(size)
    rows = rows + bend * smooth_noise(size, min(size) / 5, rng)
    columns = columns + bend * smooth_noise(size, min(size) / 5, rng)
    count = int(rng.integers(*_FIELDS))
    points = rng.uniform(0, 1, (count, 2)) * (height, width)
    distance = [np.hypot(rows - y, columns - x) for y, x in points]
    nearest = np.argmin(np.stack(distance), 0)
    kinds = rng.choice(len(_GROUNDS), count)
    picture = np.zeros((height, width, 3), np.float32)
    for kind in np.unique(kinds):
        name, colour, contrast = _GROUNDS[int(kind)]
        period = int(np.clip(_PERIODS[name] * width, 64, 512))
        texture = 1 + contrast * (natural_field(name, size, rng, period) - 1)
        where = np.isin(nearest, np.flatnonzero(kinds == kind))
        tint = np.asarray(colour) * (1 + rng.uniform(-0.08, 0.08, 3))
        picture[where] = texture[where, None] * tint
    return picture


def _add_road(picture: Floats, rng: np.random.Generator) -> None:
    """Draw a bent road across, with a broken line in its middle."""
    size = picture.shape[:2]
    height, width = size
    turn = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.5, 0.5)
    rows, columns = np.indices(size, np.float32)
    rows, columns = rows - rng.uniform(0.2, 0.8) * height, columns - rng.uniform(0.2, 0.8) * width
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    length = rng.uniform(0.8, 1.6) * max(size)
    across = across + 0.08 * max(size) * np.sin(2 * np.pi * along / length + rng.uniform(0, 6))
    half = rng.uniform(*_WIDTH) * max(size) / 2
    asphalt = 1 + 0.3 * (natural_field("gravel", size, rng, 128) - 1)
    cover = np.clip(half - np.abs(across) + 0.5, 0, 1)[..., None]
    picture[:] = picture * (1 - cover) + cover * asphalt[..., None] * _ASPHALT
    dashes = (along % (2.4 * half) < 1.2 * half) & (np.abs(across) < max(0.05 * half, 0.8))
    edges = np.abs(np.abs(across) - 0.9 * half) < max(0.03 * half, 0.5)
    picture[dashes | edges] = 0.25 * picture[dashes | edges] + 0.75 * np.asarray(_LINE)


def bush(rng: np.random.Generator, side: int = 96) -> Pixels:
    """Return a bush from above, `[side, side, 4]` RGBA: lobed, of leaves, lit from one side."""
    rows, columns = (np.indices((side, side), np.float32) - (side - 1) / 2) / (side / 2)
    turn, radius = np.arctan2(rows, columns), np.hypot(rows, columns)
    edge = np.full_like(turn, 0.74)
    for lobes in range(2, 9):
        edge += rng.normal(0, 0.09 / lobes**0.5) * np.cos(lobes * turn + rng.uniform(0, 6.3))
    ragged = 0.05 * smooth_noise((side, side), side / 24, rng)
    alpha = np.clip((np.minimum(edge, 0.95) + ragged - radius) * side / 4, 0, 1)
    alpha[radius > 0.98] = 0
    leaves = natural_field("grass", (side, side), rng)
    clumps = 1 + 0.22 * smooth_noise((side, side), side / 9, rng)
    light = 0.85 - 0.3 * (rows + columns) / 2 - 0.25 * radius
    colour = np.array([62, 92, 42]) * (1 + rng.uniform(-0.2, 0.2, 3))
    shaded = (leaves * clumps * light)[..., None] * colour
    return np.dstack([shaded.clip(0, 255), 255 * alpha]).astype(np.uint8)


def _with_bushes(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    layers: list[Layer] = []
    for _ in range(int(rng.integers(8, 22))):
        longest = rng.uniform(0.04, 0.11) * max(height, width)
        look = Look(longest, angle_deg=rng.uniform(0, 360))
        layer = render(bush(rng), look, (rng.uniform(0, width), rng.uniform(0, height)))
        layers += [shadow(layer, longest * 0.12), layer]
    return compose(pixels, layers)[0]


def from_photo(photo: Pixels, longest: int) -> Pixels:
    """Return a photo no longer than `longest` pixels, to fly over."""
    image = Image.fromarray(photo)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)
