"""What is to be loaded: an episode of training, a frame of evaluation, a photo of a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.types import Draw

if TYPE_CHECKING:
    from mlkit_refdet.episodes.index import Place


@dataclass(frozen=True)
class Triplet:
    """An anchor's class, a frame that shows it, and one that does not.

    Args:
        anchor: Label.
        positive: Shows it.
        negative: Empty, or shows an object of another category.
        other: Label of what the negative shows; None: it is empty.
    """

    anchor: int
    positive: Place
    negative: Place
    other: int | None = None

    @property
    def is_background(self) -> bool:
        """Whether the negative is an empty frame."""
        return self.other is None


@dataclass(frozen=True)
class EpisodeDraw(Draw):
    """A unit of training.

    Args:
        ways: Labels of its classes, in random order.
        frames: Detection items that show one of them.
        backgrounds: Detection items that show none.
        triplets: Their anchors are among the ways.
        asked: For each of `places`, the labels that it is searched for, in random order.
        others: Labels of negatives, and asked ones, that are no ways.
        bank_seed: The epoch's; it chooses the photos of all other classes. None: no bank.
    """

    ways: tuple[int, ...]
    frames: tuple[Place, ...] = ()
    backgrounds: tuple[Place, ...] = ()
    triplets: tuple[Triplet, ...] = ()
    asked: tuple[tuple[int, ...], ...] = ()
    others: tuple[int, ...] = ()
    bank_seed: int | None = None

    @property
    def places(self) -> list[Place]:
        """Every frame that it loads, some of them repeatedly."""
        pairs = [place for one in self.triplets for place in (one.positive, one.negative)]
        return [*self.frames, *self.backgrounds, *pairs]


@dataclass(frozen=True)
class FrameDraw(Draw):
    """A frame of evaluation, or of a cache.

    Args:
        split: Whose frame it is.
        place: Which.
        asked: Labels that it is searched for; none: the frame alone, for a cache.
        episode: Number of the evaluated episode, whose seed chooses the photos; None: the first
            photos of each class.
    """

    split: str
    place: Place
    asked: tuple[int, ...] = ()
    episode: int | None = None


@dataclass(frozen=True)
class PhotoDraw(Draw):
    """A photo of a cache: `shot` counts the class's photos, each in all its views."""

    split: str
    label: int
    shot: int
