"""How a step says how far it is."""

from __future__ import annotations

from typing import Protocol


class Tell(Protocol):
    """Called after each piece of work that is safely on the disk."""

    def __call__(self, done: int, total: int) -> None:
        """Take the images or rows done in this call, of how many."""


def silent(done: int, total: int) -> None:
    """Say nothing."""
