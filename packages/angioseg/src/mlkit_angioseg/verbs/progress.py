"""Progress of a verb on a terminal's standard error; nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def progress(unit: str) -> Callable[[int, int], None]:
    """Return a function that shows how many of how many units are done."""

    def told(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{unit} {done} of {total}", end=end, file=sys.stderr, flush=True)

    return told if sys.stderr.isatty() else lambda _done, _total: None
