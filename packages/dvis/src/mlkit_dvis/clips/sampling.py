"""Which frames of a video make a clip."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_TRIES = 20  # reference frames that are drawn before one is taken that shows an instance itself


def clip_frames(
    shows: Sequence[bool], count: int, reach: int, generator: random.Random, reverse: float = 0.0
) -> list[int]:
    """Return the frames of a clip; one at least shows an instance if any of the video does.

    Where `2 * reach + 1 == count` they are contiguous; otherwise one reference frame and others
    within `reach` of it, sorted. A video of fewer frames than `count` gives all, some of them
    repeatedly.

    Args:
        shows: For each frame of the video whether an instance is visible.
        count: Frames of the clip.
        reach: Largest distance from the reference frame.
        generator: All the randomness.
        reverse: How often the clip runs backwards, 0..1.
    """
    if len(shows) < count:
        repeated = [generator.randrange(len(shows)) for _ in range(count - len(shows))]
        chosen = sorted([*range(len(shows)), *repeated])
    elif 2 * reach + 1 == count:
        chosen = _contiguous(shows, count, generator)
    else:
        chosen = _around(shows, count, reach, generator)
    return chosen[::-1] if generator.random() < reverse else chosen


def _contiguous(shows: Sequence[bool], count: int, generator: random.Random) -> list[int]:
    """Return one of the windows that show an instance, each as likely as the others."""
    seen = [0, *accumulate(shows)]
    starts = range(len(shows) - count + 1)
    start = generator.choice([s for s in starts if seen[s + count] > seen[s]] or starts)
    return list(range(start, start + count))


def _around(shows: Sequence[bool], count: int, reach: int, generator: random.Random) -> list[int]:
    chosen: list[int] = []
    for _ in range(_TRIES):
        chosen = _neighbours(generator.randrange(len(shows)), len(shows), count, reach, generator)
        if any(shows[frame] for frame in chosen):
            return chosen
    visible = [frame for frame, shown in enumerate(shows) if shown]
    if not visible:
        return chosen
    return _neighbours(generator.choice(visible), len(shows), count, reach, generator)


def _neighbours(
    reference: int, length: int, count: int, reach: int, generator: random.Random
) -> list[int]:
    """Return the reference frame and others within `reach`; repeatedly where they are too few."""
    near = range(max(0, reference - reach), min(length, reference + reach + 1))
    others = [frame for frame in near if frame != reference]
    missing = max(0, count - 1 - len(others))
    repeated = [generator.choice(near) for _ in range(missing)]
    return sorted([reference, *repeated, *generator.sample(others, count - 1 - missing)])


def spread(available: int, count: int, generator: random.Random) -> list[int]:
    """Return `count` numbers below `available` in random order, each as often as the others."""
    chosen: list[int] = []
    while available and len(chosen) < count:
        chosen += generator.sample(range(available), min(available, count - len(chosen)))
    return chosen
