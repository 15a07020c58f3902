"""What is wrong with a data set, gathered so that one error says it all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHOWN = 100


class Problems:
    """Gathers what is wrong, line by line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, where: Path | str, what: str) -> None:
        """Note that `where` is wrong as `what` says."""
        self._lines.append(f"{where}: {what}")

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note a DataError of the block, and go on after the block."""
        try:
            yield
        except DataError as err:
            self._lines.append(str(err))

    def raise_any(self, hint: str = "") -> None:
        """Raise one DataError that lists the problems, if there is any."""
        if not self._lines:
            return
        lines, more = self._lines[:_SHOWN], len(self._lines) - _SHOWN
        if more > 0:
            lines.append(f"and {more} more problem{'s' if more > 1 else ''}")
        raise DataError("\n".join(lines), hint=hint)
