"""What the verbs print: data on stdout; progress with rate and time left on stderr."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

LogLevel = Literal["debug", "info", "warning"]
LOG = logging.getLogger("mlkit.cluster")
_EVERY_S = 10.0


def set_log_level(level: LogLevel) -> None:
    """Say more (debug: every batch and block) or less on stderr."""
    logging.getLogger("mlkit").setLevel(level.upper())


def emit(value: str | Mapping[str, object] | Sequence[object], *, as_json: bool = False) -> None:
    """Print data: text as it stands, a mapping as aligned lines, anything as JSON if asked."""
    if as_json:
        print(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))
    elif isinstance(value, Mapping):
        width = max((len(key) for key in value), default=0)
        print("\n".join(f"{key:<{width}}  {_text(item)}" for key, item in value.items()))
    else:
        print(value if isinstance(value, str) else "\n".join(map(_text, value)))


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows of the same keys as aligned text under their keys."""
    if not rows:
        return "(none)"
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:  # noqa: ANN401  # plain values, nested
    """Return JSON's own types: NaN and infinity, which it lacks, become null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@contextmanager
def resumable() -> Iterator[None]:
    """Say, when the user stops the work, that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt:
        LOG.warning("stopped: what is done is kept, and the same command goes on from there")
        raise


class Ticker:
    """Says on stderr how far work is, how fast it goes and how long it will still take.

    Args:
        what: "images", "rows".
        each: Finer units in one item, for the rate: pairs in a row.
        of: Their name; empty: `what`.
    """

    def __init__(self, what: str, *, each: int = 1, of: str = "") -> None:
        self.what, self.each, self.of = what, each, of or what
        self.start = self.said = time.monotonic()
        self.count, self.live = 0, sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Count what is done; on a terminal one line changes, elsewhere one comes now and then."""
        self.count += done
        now, last = time.monotonic(), self.count >= total
        if not (self.live or last or now - self.said > _EVERY_S):
            return
        self.said = now
        rate = self.count / max(now - self.start, 1e-9)
        left = time.strftime("%H:%M:%S", time.gmtime((total - self.count) / max(rate, 1e-9)))
        line = f"{self.count}/{total} {self.what}, {_short(rate * self.each)} {self.of}/s"
        line += f", took {now - self.start:.1f} s" if last else f", {left} left"
        lead, end = ("\r\x1b[K", "\n" if last else "") if self.live else ("", "\n")
        print(f"{lead}{line}", end=end, file=sys.stderr, flush=True)


def _short(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"
