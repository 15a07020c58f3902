"""A camera's flight over the ground, and places that it passes only part of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PchipInterpolator

if TYPE_CHECKING:
    import numpy.typing as npt

    Points = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

_FRAMES_PER_TURN = 24
_CANDIDATES, _LEAST_RUN = 4000, 3
MOST_VISITS = 3


@dataclass(frozen=True)
class Flight:
    """What part of the ground each frame shows.

    Args:
        corners: `[T, 2]`, x and y of the upper left corner, ground pixels.
        widths: `[T]`, ground pixels that a frame is wide.
        size: Height and width of frames.
    """

    corners: Points
    widths: Points
    size: tuple[int, int]

    @property
    def zooms(self) -> Points:
        """Frame pixels for each ground pixel, `[T]`."""
        return self.size[1] / self.widths

    def window(self, t: int) -> tuple[float, float, float, float]:
        """Return the part of the ground that a frame shows, xyxy."""
        left, top = (float(value) for value in self.corners[t])
        width = float(self.widths[t])
        return left, top, left + width, top + width * self.size[0] / self.size[1]

    def on_frame(self, places: Points, t: int) -> Points:
        """Return where places of the ground `[M, 2]` lie on a frame, `[M, 2]`."""
        return (places - self.corners[t]) * self.zooms[t]


def draw_flight(
    frames: int,
    size: tuple[int, int],
    world: tuple[int, int],
    rng: np.random.Generator,
    share: tuple[float, float] = (0.3, 0.42),
) -> Flight:
    """Return a smooth flight that stays over the ground.

    Args:
        frames: Of the clip.
        size: Height and width of frames.
        world: Height and width of the ground, pixels.
        rng: Gives all randomness.
        share: Narrowest and widest frame, as a share of the largest that fits onto the ground.
    """
    turns = max(3, frames // _FRAMES_PER_TURN + 2)
    knots, time = np.linspace(0, frames - 1, turns), np.arange(frames)
    widest = min(world[1], world[0] * size[1] / size[0])
    widths = _smooth(knots, rng.uniform(*share, turns) * widest, time)
    free = np.stack([world[1] - widths, world[0] - widths * size[0] / size[1]], 1)
    way = _smooth(knots, _waypoints(turns, rng), time)
    sway = rng.normal(0, 0.0012, (frames, 2)) * widths[:, None]  # a hand's or a gust's
    corners = np.clip(way * free + sway, 0, free)
    return Flight(corners, widths, size)


def _waypoints(count: int, rng: np.random.Generator) -> Points:
    """Return random points of the unit square, each some way from the one before."""
    points = [rng.random(2)]
    while len(points) < count:
        point = rng.random(2)
        if np.abs(point - points[-1]).max() > 0.35:
            points.append(point)
    return np.stack(points)


def _smooth(knots: Points, values: Points, time: npt.NDArray[np.int64]) -> Points:
    return np.asarray(PchipInterpolator(knots, values)(time))


def draw_place(
    flight: Flight,
    reach: float,
    share: float,
    rng: np.random.Generator,
    world: tuple[int, int],
) -> tuple[float, float] | None:
    """Return a place seen in about `share` of all frames, in one to three visits, or None.

    For half of that time or more, it is not at the frame's very edge.

    Args:
        flight: The camera's.
        reach: Half of the object's size, ground pixels.
        share: Wanted, 0..1; it is met to a quarter.
        rng: Gives all randomness.
        world: Height and width of the ground.
    """
    places = rng.random((_CANDIDATES, 2)) * (world[1], world[0])
    seen, inside = _seen(flight, places, -0.5 * reach), _seen(flight, places, 0.5 * reach)
    shares = seen.mean(0)
    edges = np.diff(np.pad(seen, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    visits = (edges == 1).sum(0)
    fit = (visits >= 1) & (visits <= MOST_VISITS) & (np.abs(shares - share) <= share / 4)
    fit &= seen.sum(0) >= visits * _LEAST_RUN
    fit &= 2 * inside.sum(0) >= seen.sum(0)
    where = np.flatnonzero(fit)
    if not len(where):
        return None
    chosen = places[rng.choice(where)]
    return float(chosen[0]), float(chosen[1])


def _seen(flight: Flight, places: Points, depth: float) -> Flags:
    """Return in which frames places lie within the frame, `[T, M]`.

    Args:
        flight: The camera's.
        places: `[M, 2]`, ground pixels.
        depth: How far within, ground pixels; negative: how far outside they may be.
    """
    height, width = flight.size
    at = (places[None] - flight.corners[:, None]) * flight.zooms[:, None, None]
    margin = (depth * flight.zooms)[:, None]
    inside_x = (at[..., 0] > margin) & (at[..., 0] < width - margin)
    return inside_x & (at[..., 1] > margin) & (at[..., 1] < height - margin)
