"""Drawing without replacement, and whole items in exact shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")


class Deck(Generic[Item]):
    """Draws without replacement, shuffled anew when it is empty.

    Args:
        items: What is drawn.
        generator: All the randomness.
    """

    def __init__(self, items: Sequence[Item], generator: random.Random) -> None:
        self._items, self._generator = items, generator
        self._left: list[Item] = []

    def deal(self) -> Item:
        """Return the next item of a deck that holds any."""
        if not self._left:
            self._left = self._generator.sample(self._items, len(self._items))
        return self._left.pop()

    def draw(self, fits: Callable[[Item], bool] = lambda _: True) -> Item | None:
        """Return the next item that fits; the others keep their turn. None where none fits."""
        for _ in range(2):
            for place in reversed(range(len(self._left))):
                if fits(self._left[place]):
                    return self._left.pop(place)
            self._left = self._generator.sample(self._items, len(self._items))
        return None


class Shares:
    """Deals whole items to units so that the sum over any first units is exact to rounding."""

    def __init__(self) -> None:
        self._owed, self._given = 0.0, 0

    def next(self, share: float) -> int:
        """Return how many items the next unit gets, whose exact share is given."""
        self._owed += share
        count = round(self._owed) - self._given
        self._given += count
        return count
