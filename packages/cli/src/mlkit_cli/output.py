"""What the command prints: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast


def speaks() -> bool:
    """Return whether this process speaks for the run: alone, or the first under a launcher."""
    return os.environ.get("RANK", "0") == "0"


def emit(text: str) -> None:
    """Print data."""
    if speaks():
        print(text)


def emit_json(value: object) -> None:
    """Print data as JSON; NaN and infinity, which JSON lacks, become null."""
    emit(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def note(line: str) -> None:
    """Tell the person what happens, on stderr."""
    if speaks():
        print(line, file=sys.stderr, flush=True)


class _Notes(logging.Handler):
    """Tells the person what the packages log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as a note."""
        note(record.getMessage())


def listen() -> None:
    """Show on stderr what mlkit's packages log from now on: progress, weights, warnings."""
    logger = logging.getLogger("mlkit")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())


def error(line: str) -> None:
    """Say what went wrong, with the rank where several processes speak."""
    rank = os.environ.get("RANK")
    said = f"error: {line}" if rank is None else f"[rank {rank}] error: {line}"
    print(said, file=sys.stderr, flush=True)


def hint(line: str) -> None:
    """Say what to do about it."""
    note(f"hint: {line}")


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Return rows as aligned text; the last column runs free."""
    if not rows:
        return ""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join((indent + line).rstrip() for line in lines)


def number(value: float) -> str:
    """Return a metric for people: four digits, a count as it is, a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) > 1 and value == round(value) else f"{value:.4f}"


def _finite(value: Any) -> Any:  # noqa: ANN401  # plain values, nested
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {str(key): _finite(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast("Sequence[object]", value)]
    return value
