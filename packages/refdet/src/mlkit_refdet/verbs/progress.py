"""How far a search is, how fast it goes and how long it will take, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_EVERY_S, _LIVE_S = 10.0, 0.1


class Progress:
    """Says it in one changing line on a terminal, elsewhere in a line now and then.

    The rate is that of frames worked on in this call, not of those that a journal held.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what, self._open = "", False
        self._start = self._said = self._done = self._worked = 0.0

    def __call__(self, what: str, done: int, total: int | None, worked: int) -> None:
        """Say that `done` frames are done of `total`, `worked` of them just now."""
        now = time.monotonic()
        if what != self._what:
            self.close()
            self._what, self._start, self._said = what, now, now
        self._done, self._worked = done, worked
        if now - self._said < (_LIVE_S if self._live else _EVERY_S) or not worked:
            return
        self._said = now
        rate = worked / max(now - self._start, 1e-9)
        line = f"{what} {done}{f'/{total}' if total else ''} frames, {rate:.3g} fps"
        if total:
            left = (total - done) * (now - self._start) / worked
            line += f", {time.strftime('%H:%M:%S', time.gmtime(left))} left"
        self._say(line)

    def close(self) -> None:
        """Say what was done in all, and end the line."""
        took = time.monotonic() - self._start
        if self._worked:
            rate = self._worked / max(took, 1e-9)
            self._say(f"{self._what} {self._worked:.0f} frames took {took:.1f} s, {rate:.3g} fps")
        if self._open:
            print(file=sys.stderr, flush=True)
        self._open, self._worked, self._what = False, 0, ""

    def _say(self, line: str) -> None:
        lead, end = ("\r\x1b[K", "") if self._live else ("", "\n")
        self._open = self._live
        print(f"{lead}{line}", end=end, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
