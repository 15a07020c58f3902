"""Textures: natural ones that scikit-image's wheel carries, and painted ones for solids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.images import read_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Colour = tuple[float, float, float]

Natural = Literal["grass", "gravel", "brick"]
SIDE = 96  # of a painted texture, pixels


@lru_cache(maxsize=3)
def natural(name: Natural) -> Floats:
    """Return a photographed surface, `[512, 512]`, mean 1, standard deviation .25.

    Raises:
        DataError: This scikit-image does not carry it.
    """
    with as_file(files("skimage.data") / f"{name}.png") as path:
        if not path.is_file():
            raise DataError(f"{path}: no such file", hint="pip install 'scikit-image>=0.25'")
        grey = np.asarray(read_rgb(path).mean(-1), np.float64)
    lighting = np.asarray(ndimage.gaussian_filter(grey, 60, mode="reflect"))
    plain = grey - lighting
    return (1 + 0.25 * plain / plain.std()).clip(0.2, 1.9).astype(np.float32)


def natural_field(
    name: Natural, size: tuple[int, int], rng: np.random.Generator, period: int = 512
) -> Floats:
    """Return a surface of any size, `[H, W]`, mirrored where it ends, from a random place.

    Args:
        name: Of the surface.
        size: Height and width in pixels.
        rng: Gives the place.
        period: Pixels that the photograph is made to cover, 32 to 512.
    """
    texture = _reduced(name, period)
    rows, columns = (_mirrored(side, period, int(rng.integers(2 * period))) for side in size)
    return texture[np.ix_(rows, columns)]


@lru_cache(maxsize=16)
def _reduced(name: Natural, period: int) -> Floats:
    image = Image.fromarray(natural(name)).resize((period, period), Image.Resampling.BOX)
    return np.asarray(image, np.float32)


def _mirrored(count: int, period: int, start: int) -> npt.NDArray[np.int64]:
    place = (np.arange(count) + start) % (2 * period)
    return np.minimum(place, 2 * period - 1 - place)


def smooth_noise(size: tuple[int, int], grain: float, rng: np.random.Generator) -> Floats:
    """Return noise `[H, W]` of mean 0 and deviation 1 whose spots are `grain` pixels wide."""
    coarse = tuple(max(4, int(np.ceil(side / grain)) + 3) for side in size)
    values = rng.normal(size=coarse)
    zoom = [side / (part - 3) for side, part in zip(size, coarse, strict=True)]
    field = np.asarray(ndimage.zoom(values, zoom, order=3))[: size[0], : size[1]]
    return ((field - field.mean()) / max(float(field.std()), 1e-6)).astype(np.float32)


@dataclass(frozen=True)
class Paint:
    """An object's colours, RGB 0..255: ground, pattern, and small things such as tapes."""

    base: Colour
    accent: Colour
    trim: Colour


def draw_paint(rng: np.random.Generator, hue: float | None = None) -> Paint:
    """Return three colours that differ; `hue` 0..1 is that of the first, roughly."""
    first = (rng.random() if hue is None else hue + rng.normal(0, 0.03)) % 1
    second = (first + rng.choice([0.12, 0.33, 0.5, 0.67, 0.88])) % 1
    base = _rgb(first, rng.uniform(0.45, 0.95), rng.uniform(0.4, 0.95))
    accent = _rgb(second, rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0))
    dark = rng.random() < 0.5
    trim = _rgb(rng.random(), 0.1, rng.uniform(0.1, 0.25) if dark else rng.uniform(0.85, 1))
    return Paint(base, accent, trim)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    red, green, blue = 255 * (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return float(red), float(green), float(blue)


Pattern = Literal["plain", "stripes", "rings", "checks", "diagonal", "dots", "planks"]
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "rings", "checks", "diagonal", "dots")


def paint_face(
    paint: Paint,
    pattern: Pattern,
    repeats: int,
    rng: np.random.Generator,
    *,
    label: bool = False,
    tape: bool = False,
) -> Floats:
    """Return a painted face `[SIDE, SIDE, 3]`, 0..255, worn and dirty.

    Args:
        paint: Its colours.
        pattern: What is painted onto it.
        repeats: Of the pattern, from edge to edge.
        rng: Of wear, dirt and the label's lettering.
        label: Whether it bears a label with lettering.
        tape: Whether a tape runs down its middle.
    """
    mix = _pattern(pattern, repeats)[..., None]
    face = np.asarray(paint.base) * (1 - mix) + np.asarray(paint.accent) * mix
    if tape:
        face[:, int(0.42 * SIDE) : int(0.58 * SIDE)] = paint.trim
    if label:
        _add_label(face, paint, rng)
    grain = 1 + 0.35 * (natural_field("gravel", (SIDE, SIDE), rng) - 1)
    dirt = 1 + 0.07 * smooth_noise((SIDE, SIDE), SIDE / 3, rng)
    return (face * (grain * dirt)[..., None]).clip(0, 255).astype(np.float32)


def _pattern(pattern: Pattern, repeats: int) -> Floats:
    """Return the share of the second colour, `[SIDE, SIDE]`."""
    y, x = np.indices((SIDE, SIDE)) / SIDE * repeats
    if pattern == "stripes":
        on = x % 1 < 0.5
    elif pattern == "rings":
        on = y % 1 < 0.5
    elif pattern == "checks":
        on = (np.floor(x) + np.floor(y)) % 2 == 0
    elif pattern == "diagonal":
        on = (x + y) % 1 < 0.5
    elif pattern == "dots":
        on = np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3
    elif pattern == "planks":
        framed = (np.minimum(x, y) < 0.12 * repeats) | (np.maximum(x, y) > 0.88 * repeats)
        on = (y % 1 < 0.1) & ~framed | framed & (np.abs(y - x) < 0.04 * repeats)
    else:
        on = np.zeros((SIDE, SIDE), bool)
    return on.astype(np.float32)


def _add_label(face: npt.NDArray[np.floating], paint: Paint, rng: np.random.Generator) -> None:
    top, left = int(rng.uniform(0.2, 0.4) * SIDE), int(rng.uniform(0.15, 0.3) * SIDE)
    height, width = int(0.4 * SIDE), int(0.55 * SIDE)
    face[top : top + height, left : left + width] = paint.trim
    ink = 255 - np.asarray(paint.trim)
    for row in range(top + 4, top + height - 6, 9):
        column = left + 4
        while column < left + width - 8:
            letter = int(rng.integers(3, 9))
            face[row : row + 5, column : column + letter] = ink
            column += letter + 3
