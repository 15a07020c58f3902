"""One drone clip: ground, things that lie on it, a camera that passes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_core.errors import InputError
from mlkit_refdet.scenes.camera import draw_flight, draw_place
from mlkit_refdet.scenes.compose import compose, render
from mlkit_refdet.scenes.looks import Look, LookRanges, draw_look
from mlkit_refdet.scenes.shadows import shadow
from mlkit_refdet.scenes.textures import smooth_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlkit_refdet.scenes.camera import Flight
    from mlkit_refdet.scenes.compose import Box, Floats, Layer, Pixels, Seen

LEAST_SEEN = 0.15  # share of the object from which a frame counts as showing it
_LEAST_SIDE = 3  # of a box, pixels
_FLIGHTS = 40
_NOISE = 2.0  # of the sensor, 0..255
_LOOKS = LookRanges(
    angle_deg=(-25.0, 25.0),
    perspective=0.1,
    blur_px=(0.2, 0.9),
    gain=(0.75, 1.15),
    tint=0.04,
    contrast=(0.8, 1.05),
    cover_chance=0.0,
)


@dataclass(frozen=True)
class Thing:
    """Something on the ground.

    Args:
        cutout: `[h, w, 4]` RGBA.
        place: x and y of its middle, ground pixels.
        longest: Its longer side, ground pixels.
        look: All but its size.
    """

    cutout: Pixels
    place: tuple[float, float]
    longest: float
    look: Look

    def layer(self, flight: Flight, t: int) -> Layer | None:
        """Return it as a frame shows it; None: it is out of sight."""
        zoom, (height, width) = float(flight.zooms[t]), flight.size
        x, y = flight.on_frame(np.array([self.place]), t)[0]
        size = self.longest * zoom
        if not (-size < x < width + size and -size < y < height + size):
            return None
        return render(self.cutout, replace(self.look, longest_px=size), (float(x), float(y)))


@dataclass(frozen=True)
class Clip:
    """A clip that is drawn frame by frame.

    Args:
        ground: `[H', W', 3]` uint8.
        flight: The camera's.
        target: The object to find.
        others: Things that it can be confused with; they lie beneath it.
        above: What may hide it.
        brightness: Factor of each frame, `[T]`.
        seed: Of the sensor's noise.
    """

    ground: Pixels
    flight: Flight
    target: Thing
    others: tuple[Thing, ...]
    above: tuple[Thing, ...]
    brightness: Floats
    seed: int

    def __len__(self) -> int:
        return len(self.flight.widths)

    def frame(self, t: int) -> tuple[Pixels, Box | None]:
        """Return a frame and the object's box; where there is none, nothing of it is drawn."""
        view, below, above = self._background(t), self._layers(self.others, t), None
        own = self.target.layer(self.flight, t)
        if own is not None:
            above = self._layers(self.above, t)
            layers = [*below, _shadow(own), own, *above]
            picture, seen = compose(view, layers)
            shown = seen[len(below) + 1]
            if _counts(shown):
                return self._developed(picture, t), shown.box_xyxy
        above = self._layers(self.above, t) if above is None else above
        return self._developed(compose(view, [*below, *above])[0], t), None

    def frames(self) -> Iterator[tuple[Pixels, Box | None]]:
        """Yield all frames in order, each with its box."""
        for t in range(len(self)):
            yield self.frame(t)

    def _background(self, t: int) -> Pixels:
        height, width = self.flight.size
        image = Image.fromarray(self.ground).resize(
            (width, height), Image.Resampling.BILINEAR, box=self.flight.window(t)
        )
        return np.asarray(image)

    def _layers(self, things: Sequence[Thing], t: int) -> list[Layer]:
        found: list[Layer] = []
        for thing in things:
            layer = thing.layer(self.flight, t)
            if layer is not None:
                found += [_shadow(layer), layer]
        return found

    def _developed(self, picture: Pixels, t: int) -> Pixels:
        rng = np.random.default_rng([self.seed, t])
        noise = rng.standard_normal(picture.shape, np.float32) * _NOISE
        return np.clip(picture * self.brightness[t] + noise, 0, 255).astype(np.uint8)


def _shadow(layer: Layer) -> Layer:
    return shadow(layer, 0.12 * max(layer.alpha.shape))


def _counts(seen: Seen) -> bool:
    box = seen.box_xyxy
    if box is None or seen.share < LEAST_SEEN:
        return False
    return min(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE


@dataclass(frozen=True)
class ClipPlan:
    """How a clip is made.

    Args:
        frames: How many.
        size: Height and width in pixels.
        share: Of the frames that show the object.
        object_px: Smallest and largest longer side of objects, frame pixels.
        cover_chance: How often a part of the object is hidden throughout.
    """

    frames: int
    size: tuple[int, int]
    share: float = 0.25
    object_px: tuple[float, float] = (20.0, 80.0)
    cover_chance: float = 0.3


def draw_clip(
    plan: ClipPlan,
    ground: Pixels,
    target: Pixels,
    others: Sequence[Pixels],
    rng: np.random.Generator,
    above: Sequence[Pixels] = (),
) -> Clip:
    """Return a clip whose camera shows the object in about the wanted share of the frames.

    Args:
        plan: Of the clip.
        ground: `[H', W', 3]`, larger than the frames.
        target: Cut-out of the object.
        others: Cut-outs of further things.
        rng: Gives all randomness.
        above: Cut-outs that may lie over the object, one of them beside it.

    Raises:
        InputError: No flight over this ground passes a place for so long.
    """
    world = (ground.shape[0], ground.shape[1])
    ranges = replace(_LOOKS, cover_chance=plan.cover_chance)
    for _ in range(_FLIGHTS):
        flight = draw_flight(plan.frames, plan.size, world, rng)
        longest = _ground_size(flight, plan.object_px, rng)
        place = draw_place(flight, longest / 2, plan.share, rng, world)
        if place is not None:
            own = Thing(target, place, longest, draw_look(ranges, rng))
            break
    else:
        what = f"in {plan.share:.0%} of {plan.frames} frames"
        raise InputError(
            f"no flight over {world[1]} x {world[0]} pixels passes an object {what}",
            hint="more frames, a larger background, or another share",
        )
    beneath = tuple(_thrown(cut, own, flight, plan, world, rng) for cut in others)
    hiding = tuple(_beside(cut, own, rng) for cut in above)
    grain = plan.frames / 6
    brightness = 1 + 0.04 * smooth_noise((4, plan.frames), max(grain, 2.0), rng)[0]
    seed = int(rng.integers(2**31))
    return Clip(ground, flight, own, beneath, hiding, np.clip(brightness, 0.85, 1.15), seed)


def _ground_size(flight: Flight, object_px: tuple[float, float], rng: np.random.Generator) -> float:
    """Return a size on the ground that stays within the range, however far the camera zooms."""
    low, high = object_px[0] / flight.zooms.min(), object_px[1] / flight.zooms.max()
    return float(low * (max(high, low) / low) ** rng.random())


def _thrown(
    cutout: Pixels,
    own: Thing,
    flight: Flight,
    plan: ClipPlan,
    world: tuple[int, int],
    rng: np.random.Generator,
) -> Thing:
    """Return a thing somewhere on the camera's way, not upon the object."""
    longest = _ground_size(flight, plan.object_px, rng)
    look = draw_look(_LOOKS, rng)
    place = own.place
    apart = 0.6 * (longest + own.longest)
    for _ in range(50):
        t = int(rng.integers(len(flight.widths)))
        left, top, right, bottom = flight.window(t)
        place = (float(rng.uniform(left, right)), float(rng.uniform(top, bottom)))
        if np.hypot(place[0] - own.place[0], place[1] - own.place[1]) > apart:
            break
    else:
        place = ((own.place[0] + world[1] / 2) % world[1], (own.place[1] + world[0] / 2) % world[0])
    return Thing(cutout, place, longest, look)


def _beside(cutout: Pixels, own: Thing, rng: np.random.Generator) -> Thing:
    """Return a thing that lies over an edge of the object."""
    turn, longest = rng.uniform(0, 2 * np.pi), own.longest * rng.uniform(0.7, 1.3)
    away = 0.5 * longest + rng.uniform(0.1, 0.5) * own.longest
    place = (own.place[0] + away * np.cos(turn), own.place[1] + away * np.sin(turn))
    return Thing(cutout, place, longest, Look(1.0, angle_deg=rng.uniform(0, 360), blur_px=0.4))
