"""What is wrong with a data set, gathered so that one error says it all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHOWN = 20


class Problems:
    """Gathers what is wrong with a file, row by row.

    Args:
        path: The file, or the folder of a data set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note that a row is wrong as `what` says."""
        self._lines.append(f"{self._path}: {where}: {what}")

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Note a DataError of the block as a problem of `where`, and go on after the block."""
        try:
            yield
        except DataError as err:
            self.add(where, str(err))

    def raise_any(self, hint: str = "") -> None:
        """Raise one DataError that lists the problems, if there is any."""
        if not self._lines:
            return
        lines, more = self._lines[:_SHOWN], len(self._lines) - _SHOWN
        if more > 0:
            lines.append(f"and {more} more problem{'s' if more > 1 else ''}")
        raise DataError("\n".join(lines), hint=hint)
