"""Frames of validation and test, each with the classes that it is searched for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.decks import Deck
from mlkit_refdet.episodes.draws import FrameDraw
from mlkit_refdet.episodes.index import Place
from mlkit_refdet.episodes.triplets import Negatives

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.splits import Split


def every_frame(split: Split, name: str, options: ReferenceFramesConfig) -> list[list[FrameDraw]]:
    """Return one unit for each video, its frames in order, and one for each image.

    A frame is asked for what it may show (of a video its own object, whether visible or not; of an
    image what it shows), and for absent classes of other categories, as many as `eval_asked` says.
    These are the same for all frames of a video.
    """
    units: list[list[FrameDraw]] = []
    number = 0
    for place_of, frames in split.frames.items():
        footage = split.index.footage[place_of]
        draws: list[FrameDraw] = []
        for place in (Place(place_of, frame) for frame in frames):
            key = footage.name if footage.classes else f"{footage.name}/{place.frame}"
            asked = asked_of(split, place, options.eval_asked, key)
            draws.append(FrameDraw(number, 0, name, place, asked))
            number += 1
        units += [draws] if footage.is_video else [[draw] for draw in draws]
    return units


def asked_of(split: Split, place: Place, absent: int | str, key: str) -> tuple[int, ...]:
    """Return the labels that a frame is searched for, ascending.

    Args:
        split: Of the frame.
        place: The frame.
        absent: How many that it does not show; "all": every class that it is known not to show.
        key: Chooses the absent ones.
    """
    own = split.annotated_for(place)
    present = sorted((split.shown(place) if own is None else {*own}) & {*split.labels})
    categories = {split.categories[label] for label in (*present, *(own or ()))}
    if own is None:  # whatever it shows not was looked for
        others = [label for label in split.labels if label not in present]
    else:
        others = [one for one in split.labels if split.categories[one] not in categories]
    if isinstance(absent, int):
        least = absent if present else max(absent, 1)  # an empty image is asked for something
        others = random.Random(key).sample(others, min(least, len(others)))
    return tuple(sorted((*present, *others)))


def episodes(split: Split, name: str, options: ReferenceFramesConfig) -> list[list[FrameDraw]]:
    """Return `eval_episodes` units: classes, photos and frames are drawn for each, always alike.

    Raises:
        DataError: The split has too few categories.
    """
    generator = random.Random(f"{name} {options.eval_episodes}")
    decks = {label: Deck(own, generator) for label, own in split.places.items()}
    negatives = Negatives(split, generator)
    empty = _backgrounds(options)
    units: list[list[FrameDraw]] = []
    for episode in range(options.eval_episodes):
        ways = _ways(split, [*decks], options.n_way, generator)
        seed = generator.getrandbits(62)
        places: list[Place] = []
        for label in ways:
            for _ in range(min(options.n_query, len(split.places[label]))):
                place = decks[label].draw(lambda p: p not in places)  # noqa: B023  # called at once
                places += [place] if place is not None else []
        for number in range(empty if negatives.has_background else 0):
            place = negatives.background(ways[number % len(ways)], ways)
            places += [place] if place is not None else []
        first = sum(map(len, units))
        units.append(
            [FrameDraw(first + i, seed, name, p, ways, episode) for i, p in enumerate(places)]
        )
    return units


def _backgrounds(options: ReferenceFramesConfig) -> int:
    if options.backgrounds is not None:
        return options.backgrounds
    ratio = options.background_ratio
    return round(options.n_way * options.n_query * ratio / (1 - ratio))


def _ways(
    split: Split, labels: Sequence[int], count: int, generator: random.Random
) -> tuple[int, ...]:
    ways: dict[str, int] = {}
    for label in generator.sample(labels, len(labels)):
        ways.setdefault(split.categories[label], label)
    if len(ways) < count:
        have = f"{len(ways)} categories"
        raise DataError(f"data.n_way: {count} classes are needed for an episode, there are {have}")
    return tuple([*ways.values()][:count])
