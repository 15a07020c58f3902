"""Frames that do not show an object: empty ones, and those of other categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.decks import Deck
from mlkit_refdet.episodes.draws import Triplet

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from mlkit_refdet.episodes.index import Place
    from mlkit_refdet.episodes.splits import Split

_TRIES = 20  # random images before all are looked through


class Negatives:
    """Draws negatives of a split.

    An empty frame of a class is one of its own videos; of an image set one without any object, or,
    where there is none, one without objects of the categories in question.

    Args:
        split: Of training.
        generator: All the randomness.
    """

    def __init__(self, split: Split, generator: random.Random) -> None:
        self._split, self._generator = split, generator
        footage = split.index.footage
        self._empty = {n: Deck(own, generator) for n, own in split.backgrounds.items() if own}
        self._videos = [n for n in self._empty if footage[n].classes]
        self._sets = [n for n in self._empty if not footage[n].classes]
        self._images = [place for place in split.every if not split.footage(place).classes]

    @property
    def has_background(self) -> bool:
        """Whether there is any frame that shows none of some category."""
        categories = {self._split.categories[label] for label in self._split.places}
        return bool(self._empty) or (bool(self._images) and len(categories) > 1)

    def background(self, label: int, ways: Sequence[int]) -> Place | None:
        """Return a frame that shows none of the ways' categories.

        Args:
            label: The way whose own video it is of, where it has any.
            ways: Labels.
        """
        categories = {self._split.categories[way] for way in ways}
        own = [number for number in self._split.footage_of(label) if number in self._empty]
        for number in own or self._sets:
            place = self._empty[number].draw()
            if place is not None:
                return place
        place = self._image_without(categories)
        return place or self._other_video(categories)

    def _image_without(self, categories: set[str]) -> Place | None:
        if not self._images:
            return None
        for _ in range(_TRIES):
            place = self._generator.choice(self._images)
            if not self._split.shows_any(place, categories):
                return place
        rest = [p for p in self._images if not self._split.shows_any(p, categories)]
        return self._generator.choice(rest) if rest else None

    def _other_video(self, categories: set[str]) -> Place | None:
        """Return an empty frame of a video that was annotated for other categories."""
        fit = [
            number
            for number in self._videos
            if not categories
            & {self._category(c) for c in self._split.index.footage[number].classes}
        ]
        return self._empty[self._generator.choice(fit)].draw() if fit else None

    def _category(self, name: str) -> str:
        return next(one.category for one in self._split.index.classes if one.name == name)

    def triplet(
        self,
        anchor: int,
        positive: Place,
        strategy: str,
        pools: Sequence[Sequence[int]],
        decks: Mapping[int, Deck[Place]],
    ) -> Triplet:
        """Return a triplet.

        Args:
            anchor: Label.
            positive: A frame that shows it.
            strategy: "background" (else, where a class has no empty frame, "cross_class"),
                "cross_class", or "mixed": either, by a fair coin.
            pools: Labels that negatives of another category are taken from, in turn where the
                first have none.
            decks: Label to its frames.

        Raises:
            DataError: There is no such negative.
        """
        if strategy == "mixed":
            strategy = self._generator.choice(("background", "cross_class"))
        if strategy == "background":
            place = self.background(anchor, (anchor,))
            if place is not None:
                return Triplet(anchor, positive, place)
        own = self._split.categories[anchor]
        for pool in pools:
            others = [label for label in pool if self._split.categories[label] != own]
            for label in self._generator.sample(others, len(others)):
                place = decks[label].draw(lambda p: not self._split.shows_any(p, {own}))
                if place is not None:
                    return Triplet(anchor, positive, place, other=label)
        hint = "add classes of other categories, or say `triplet_ratio: 0`"
        raise DataError(f"data.negative_strategy: {own!r} has no negative frame", hint=hint)
