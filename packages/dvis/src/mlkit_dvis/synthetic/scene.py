"""One generated video: animals that swim, cross, hide, come and go, over a moving background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_dvis.synthetic.bodies import CLASSES, Body, outline, paint, random_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """Where an animal is in each frame.

    Args:
        x: `[T]`, pixels.
        y: `[T]`, pixels.
        angle: `[T]`, radians, of its length against the horizontal.
        radius: `[T]`, half of its height, pixels.
        phase: `[T]`, of its own movement, radians.
        facing: 1 to the right, -1 to the left.
    """

    x: Floats
    y: Floats
    angle: Floats
    radius: Floats
    phase: Floats
    facing: float


@dataclass(frozen=True)
class Rendered:
    """A video.

    Args:
        frames: `[T, H, W, 3]` uint8 RGB.
        masks: `[M, T, H, W]` bool, what is seen of each animal.
        labels: `[M]`, by `CLASSES`.
    """

    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    labels: list[int]


@dataclass(frozen=True)
class Difficulty:
    """How hard a video is.

    Args:
        fewest: Animals.
        most: Animals.
        speed: Of animals, shares of the width over the whole video.
        coming: Share of animals that come in or leave.
        plants: Weeds that hide what passes behind.
    """

    fewest: int = 2
    most: int = 4
    speed: float = 0.6
    coming: float = 0.4
    plants: int = 1


def random_path(
    frames: int, size: tuple[int, int], difficulty: Difficulty, rng: np.random.Generator
) -> Path:
    """Return a smooth path through the picture; some begin or end outside of it."""
    height, width = size
    time = np.linspace(0, 1, frames)
    facing = rng.choice([-1.0, 1.0])
    radius = height * rng.uniform(0.15, 0.24)
    way = difficulty.speed * width * rng.uniform(0.5, 1.2)
    if rng.random() < difficulty.coming:
        outside = radius * 2.6
        start = -outside if facing > 0 else width + outside
        if rng.random() < 0.5:
            start = (width + outside if facing > 0 else -outside) - facing * way
    else:
        free = max(width - way - 3 * radius, 1.0)
        start = 1.5 * radius + rng.uniform(0, free)
        start = start if facing > 0 else width - start
    sway = height * rng.uniform(0.02, 0.1)
    turns, shift = rng.uniform(0.5, 1.5), rng.uniform(0, 2 * np.pi)
    y = height * rng.uniform(0.2, 0.8) + sway * np.sin(2 * np.pi * turns * time + shift)
    slope = np.gradient(y) / max(way / frames, 1e-3)
    swing = rng.uniform(0.55, 0.8) * np.arange(frames) + rng.uniform(0, 2 * np.pi)
    scale = 1 + rng.uniform(-0.2, 0.2) * np.sin(np.pi * time)
    return Path(
        x=start + facing * way * time,
        y=y,
        angle=np.clip(np.arctan(slope), -0.5, 0.5) * facing,
        radius=radius * scale,
        phase=swing,
        facing=facing,
    )


def render(
    frames: int, size: tuple[int, int], difficulty: Difficulty, rng: np.random.Generator
) -> Rendered:
    """Return a video of random animals, the later drawn over the earlier."""
    count = int(rng.integers(difficulty.fewest, difficulty.most + 1))
    labels = [int(rng.integers(len(CLASSES))) for _ in range(count)]
    bodies = [random_body(CLASSES[label], rng) for label in labels]
    paths = [random_path(frames, size, difficulty, rng) for _ in labels]
    background = Background(size, difficulty.plants, rng)
    pictures = [
        compose(background.at(t / max(frames - 1, 1)), bodies, paths, t, background.plants(t))
        for t in range(frames)
    ]
    masks = np.stack([seen for _, seen in pictures], 1)
    return Rendered(np.stack([picture for picture, _ in pictures]), masks, labels)


def compose(
    canvas: Floats,
    bodies: Sequence[Body],
    paths: Sequence[Path],
    frame: int,
    cover: tuple[Floats, Floats] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return a frame `[H, W, 3]` and what is seen of each animal `[M, H, W]`.

    A pixel belongs to an animal where it covers more than half of it.

    Args:
        canvas: `[H, W, 3]` RGB 0..1.
        bodies: From back to front.
        paths: Theirs.
        frame: Index.
        cover: Colour `[H, W, 3]` and share `[H, W]` of what lies in front of all animals.
    """
    height, width = canvas.shape[:2]
    seen = np.zeros((len(bodies), height, width), bool)
    picture = canvas.copy()
    for row, (body, path) in enumerate(zip(bodies, paths, strict=True)):
        window, alpha, colours = _draw(body, path, frame, (height, width))
        if not alpha.size:
            continue
        picture[window] = alpha[..., None] * colours + (1 - alpha[..., None]) * picture[window]
        solid = alpha > 0.5
        for other in seen[:row]:
            other[window] &= ~solid
        seen[row][window] = solid
    if cover is not None:
        colour, share = cover
        picture = share[..., None] * colour + (1 - share[..., None]) * picture
        seen &= share < 0.5
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8), seen


def _draw(
    body: Body, path: Path, frame: int, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Floats, Floats]:
    """Return where an animal lies, how much of each pixel it covers, and its colours there."""
    radius = path.radius[frame]
    reach = radius * max(body.stretch, 1.0) * 1.25
    cx, cy = path.x[frame], path.y[frame]
    top, bottom = (int(np.clip(v, 0, size[0])) for v in (cy - reach, cy + reach + 1))
    left, right = (int(np.clip(v, 0, size[1])) for v in (cx - reach, cx + reach + 1))
    window = slice(top, bottom), slice(left, right)
    rows, columns = np.mgrid[window]
    cos, sin = np.cos(path.angle[frame]), np.sin(path.angle[frame])
    dx, dy = columns + 0.5 - cx, rows + 0.5 - cy
    x = path.facing * (cos * dx + sin * dy) / (radius * body.stretch)
    y = (cos * dy - sin * dx) / radius
    distance = outline(body, x, y, path.phase[frame]) * radius
    return window, np.clip(0.5 - distance, 0, 1), paint(body, x, y)


class Background:
    """Water over sand, slowly drifting, with weeds in front.

    Args:
        size: Height and width, pixels.
        plants: Weeds.
        rng: Gives all randomness.
    """

    def __init__(self, size: tuple[int, int], plants: int, rng: np.random.Generator) -> None:
        height, width = size
        self._size = size
        self._waves = rng.uniform(0.5, 3.5, (6, 2)), rng.uniform(0, 2 * np.pi, 6)
        self._drift = rng.uniform(-0.6, 0.6, 6)
        hue = rng.uniform(0.45, 0.6)
        self._deep = np.array([0.05, 0.25 + 0.2 * (0.6 - hue), 0.32 + 0.2 * (hue - 0.45)])
        self._light = self._deep + np.array([0.12, 0.22, 0.2])
        self._sand = np.array([0.62, 0.54, 0.38]) * rng.uniform(0.7, 1.0)
        self._floor = rng.uniform(0.78, 0.9)
        self._grain = rng.normal(0, 0.03, (height, width))
        self._weeds = [
            (rng.uniform(0.1, 0.9) * width, rng.uniform(0.03, 0.06) * width, rng.uniform(0, 6))
            for _ in range(plants)
        ]

    def at(self, time: float) -> Floats:
        """Return the picture at a time 0..1, `[H, W, 3]` RGB 0..1."""
        height, width = self._size
        rows, columns = np.mgrid[0:height, 0:width]
        y, x = rows / height, columns / width
        waves = sum(
            np.sin(2 * np.pi * (fx * x + fy * y + drift * time) + phase)
            for (fx, fy), phase, drift in zip(*self._waves, self._drift, strict=True)
        )
        light = np.clip(0.62 - 0.55 * y + 0.06 * waves, 0, 1)[..., None]
        water = light * self._light + (1 - light) * self._deep
        edge = self._floor + 0.02 * np.sin(9 * x + self._waves[1][0])
        share = np.clip((y - edge) * height / 2, 0, 1)[..., None]
        sand = self._sand * (0.9 + 0.05 * waves)[..., None]
        return share * sand + (1 - share) * water + self._grain[..., None]

    def plants(self, frame: int) -> tuple[Floats, Floats] | None:
        """Return colour and share of the weeds in front; None without any."""
        if not self._weeds:
            return None
        height, width = self._size
        rows, columns = np.mgrid[0:height, 0:width]
        share = np.zeros(self._size)
        up = 1 - rows / height
        for place, wide, phase in self._weeds:
            bend = 0.04 * width * up * np.sin(0.25 * frame + phase + 3 * up)
            half = wide * 0.5 * np.clip(1.15 - 1.5 * up, 0, 1)
            share = np.maximum(share, np.clip(half - np.abs(columns + bend - place) + 0.5, 0, 1))
        green = np.stack([0.1 + 0.1 * up, 0.3 + 0.25 * up, 0.12 + 0 * up], -1)
        return green * (0.85 + 0.15 * np.sin(columns * 1.7))[..., None], share
