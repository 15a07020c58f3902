"""How far a video is, how fast it goes and how long it will take, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_EVERY_S = 10.0
_LIVE_S = 0.1


class Progress:
    """Says it in one changing line on a terminal, elsewhere in a line now and then.

    Args:
        what: What is done with the frames: "tracking", "drawing".
    """

    def __init__(self, what: str) -> None:
        self._what, self._live = what, sys.stderr.isatty()
        self._start = self._said = time.monotonic()
        self._done = 0
        self._open = False  # whether a line on the terminal waits for its end

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say that `done` frames are done of `total`, None where it is not known."""
        self._done = done
        now = time.monotonic()
        if now - self._said < (_LIVE_S if self._live else _EVERY_S):
            return
        self._said = now
        rate = done / max(now - self._start, 1e-9)
        line = f"{self._what} {done}{f'/{total}' if total else ''} frames, {rate:.3g} fps"
        if total and done:
            left = (total - done) / rate
            line += f", {time.strftime('%H:%M:%S', time.gmtime(left))} left"
        self._say(line)

    def close(self) -> None:
        """Say what was done in all."""
        took = max(time.monotonic() - self._start, 1e-9)
        if self._done:
            rate = self._done / took
            self._say(f"{self._what} {self._done} frames took {took:.1f} s, {rate:.3g} fps")
        if self._open:
            print(file=sys.stderr, flush=True)
            self._open = False

    def _say(self, line: str) -> None:
        lead, end = ("\r\x1b[K", "") if self._live else ("", "\n")
        self._open = self._live
        print(f"{lead}{line}", end=end, file=sys.stderr, flush=True)


class Stages:
    """Progress of one thing after another; what comes next ends what was before."""

    def __init__(self) -> None:
        self._what = ""
        self._progress: Progress | None = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Say how far a stage is."""
        if self._progress is None or what != self._what:
            self.close()
            self._what, self._progress = what, Progress(what)
        self._progress(done, total)

    def close(self) -> None:
        """End the current stage."""
        if self._progress is not None:
            self._progress.close()
        self._progress = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
