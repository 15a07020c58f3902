"""Episodes of an epoch: which classes, which frames, how many triplets; a pure function of a seed.

A unit is one episode with its share of triplets, so that every optimiser step of any number of
units, on any number of ranks, holds both in the same ratio.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.decks import Deck, Shares
from mlkit_refdet.episodes.draws import EpisodeDraw
from mlkit_refdet.episodes.triplets import Negatives

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.draws import Triplet
    from mlkit_refdet.episodes.index import Place
    from mlkit_refdet.episodes.splits import Split

LOG = logging.getLogger("mlkit.refdet")

# How often an epoch shows each labelled frame, by stage and number of classes (< 10, < 50, more).
_COVERAGE = {1: (2.0, 1.5, 1.0), 2: (1.5, 1.0, 0.8), 3: (1.0, 0.8, 0.5)}
_FEWEST, _MOST = 10, 1000  # episodes of an epoch


def auto_episodes(frames: int, classes: int, options: ReferenceFramesConfig) -> int:
    """Return the episodes of an epoch where the options do not say.

    Args:
        frames: Labelled ones of the split.
        classes: Of the split.
        options: Give ways, queries and the stage.
    """
    size = 0 if classes < 10 else 1 if classes < 50 else 2
    once = math.ceil(frames / (options.n_way * options.n_query))
    return min(max(math.ceil(once * _COVERAGE[options.stage][size]), _FEWEST), _MOST)


class EpisodeSampler:
    """Plans epochs of a split.

    Args:
        split: Of training.
        options: Of the data.

    Raises:
        DataError: The split has too few categories, or too few items for the triplet ratio.
    """

    def __init__(self, split: Split, options: ReferenceFramesConfig) -> None:
        self._split, self._options = split, options
        categories = {split.categories[label] for label in split.places}
        if len(categories) < options.n_way:
            what = f"{options.n_way} categories are needed for an episode"
            raise DataError(f"data.n_way: {what}, the training split has {len(categories)}")
        self._size = options.n_way * options.n_query
        self._backgrounds = self._share_of_backgrounds()
        self._triplets = self._share_of_triplets()

    def _share_of_backgrounds(self) -> float:
        """Return how many background frames an episode has on average."""
        options = self._options
        wanted = options.backgrounds is not None and options.backgrounds > 0
        ratio = options.background_ratio if options.backgrounds is None else 0.0
        if (wanted or ratio) and not Negatives(self._split, random.Random(0)).has_background:
            if wanted:
                raise DataError("data.backgrounds: every training frame shows an object")
            LOG.warning("no frame without an object: background_ratio has no effect")
            return 0.0
        return float(options.backgrounds or 0) if not ratio else self._size * ratio / (1 - ratio)

    def _share_of_triplets(self) -> float:
        """Return how many triplets a unit has on average."""
        ratio = self._options.triplet_ratio
        if ratio in (0.0, 1.0):
            return self._size * ratio
        items = self._size + self._backgrounds
        share = items * ratio / (1 - ratio)
        if share < 1:
            what = f"{ratio} of an episode of {items:g} items is less than one triplet"
            hint = "raise it, or n_way or n_query: every unit holds detection items and triplets"
            raise DataError(f"data.triplet_ratio: {what}", hint=hint)
        return share

    @property
    def episodes(self) -> int:
        """How many units an epoch has."""
        options, classes = self._options, len(self._split.places)
        if options.episodes is not None:
            return options.episodes
        if options.samples_per_class is not None:
            return math.ceil(options.samples_per_class * classes / self._triplets)
        return auto_episodes(len(self._split.labelled), classes, options)

    def units(self, seed: int) -> list[list[EpisodeDraw]]:
        """Return an epoch's units, each one draw."""
        epoch = _Epoch(self._split, self._options, random.Random(seed))
        backgrounds, triplets, items = Shares(), Shares(), 0
        units: list[list[EpisodeDraw]] = []
        for number in range(self.episodes):
            count = backgrounds.next(self._backgrounds)
            items = self._size + count
            share = self._triplets
            if 0 < self._options.triplet_ratio < 1:
                share = items * self._options.triplet_ratio / (1 - self._options.triplet_ratio)
            units.append([epoch.episode(number, count, triplets.next(share))])
        return units


class _Epoch:
    """One epoch while it is planned: the decks that frames are drawn from."""

    def __init__(
        self, split: Split, options: ReferenceFramesConfig, generator: random.Random
    ) -> None:
        self._split, self._options, self._generator = split, options, generator
        self._bank_seed = generator.getrandbits(62) if options.bank else None
        self._decks = {label: Deck(own, generator) for label, own in split.places.items()}
        self._negatives = Negatives(split, generator)
        self._turn = 0  # of anchors

    def episode(self, number: int, backgrounds: int, triplets: int) -> EpisodeDraw:
        """Return the next unit."""
        ways = self._ways()
        chosen = self._triplets_of(ways, triplets) if triplets else []
        others = {one.other for one in chosen if one.other is not None}
        with_detection = self._options.triplet_ratio < 1
        draw = EpisodeDraw(
            index=number,
            seed=self._generator.getrandbits(62),
            ways=ways,
            frames=self._frames(ways) if with_detection else (),
            backgrounds=self._empty(ways, backgrounds) if with_detection else (),
            triplets=tuple(chosen),
            bank_seed=self._bank_seed,
        )
        anchors = [{label} for one in chosen for label in (one.anchor, one.anchor)]
        plain: list[set[int]] = [set() for _ in range(len(draw.places) - len(anchors))]
        pairs = zip(draw.places, [*plain, *anchors], strict=True)
        asked = tuple(self._asked(place, ways, anchor) for place, anchor in pairs)
        others |= {label for own in asked for label in own}
        return replace(draw, asked=asked, others=tuple(sorted(others - {*ways})))

    def _asked(self, place: Place, ways: Sequence[int], anchor: set[int]) -> tuple[int, ...]:
        """Return the labels that a frame is searched for; a triplet's anchor is among them."""
        count = self._options.asks
        if count is None:
            return self._shuffled(ways)
        shown = self._split.shown(place) & {*self._split.labels}
        groups = (anchor, shown & {*ways}, shown, {*ways})
        order = [label for group in groups for label in self._shuffled(sorted(group))]
        return self._shuffled([*dict.fromkeys(order)][:count])

    def _shuffled(self, labels: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._generator.sample(labels, len(labels)))

    def _ways(self) -> tuple[int, ...]:
        """Return labels of distinct categories, in random order."""
        order = self._generator.sample([*self._decks], len(self._decks))
        ways: dict[str, int] = {}
        for label in order:
            ways.setdefault(self._split.categories[label], label)
        return tuple(ways.values())[: self._options.n_way]

    def _frames(self, ways: Sequence[int]) -> tuple[Place, ...]:
        """Return as many distinct frames of each class as the options say, if it has them."""
        taken: list[Place] = []
        for label in ways:
            for _ in range(min(self._options.n_query, len(self._split.places[label]))):
                place = self._decks[label].draw(lambda p: p not in taken)
                if place is not None:
                    taken.append(place)
        return tuple(taken)

    def _empty(self, ways: Sequence[int], count: int) -> tuple[Place, ...]:
        found: list[Place] = []
        order = self._generator.sample(ways, len(ways))
        for number in range(count):
            place = self._negatives.background(order[number % len(order)], ways)
            if place is not None:
                found.append(place)
        return tuple(found)

    def _triplets_of(self, ways: Sequence[int], count: int) -> list[Triplet]:
        """Return triplets, anchors in turn."""
        others = [label for label in self._decks if label not in ways]
        pools = [[*ways, *others]] if self._options.bank else [[*ways], others]
        found: list[Triplet] = []
        for _ in range(count):
            anchor = ways[self._turn % len(ways)]
            self._turn += 1
            positive, strategy = self._decks[anchor].deal(), self._options.negative_strategy
            found.append(self._negatives.triplet(anchor, positive, strategy, pools, self._decks))
        return found
