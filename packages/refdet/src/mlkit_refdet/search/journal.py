"""Detections of every frame, written as they are found: a second call goes on behind them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Self

from mlkit_core.errors import DataError, InputError
from mlkit_refdet.search.temporal import Detection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

Found = dict[int, list[Detection]]


class Journal:
    """A file with a line for each searched frame. The first line says what was searched, and how.

    Used as a context: the file is open within.

    Args:
        path: The file; its folder exists.
        about: What must be the same for it to go on: source, references, model, options.
        overwrite: Begin anew where it is not.

    Raises:
        InputError: It is of another search.
        DataError: It is damaged, but for a last line cut short.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._path, self.found = path, Found()
        self._file: BinaryIO | None = None
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a stop may have cut the last line short
        head, _, rows = whole.partition(b"\n")
        if head and not _agrees(path, head, about):
            if not overwrite:
                hint = "name another folder, or say --overwrite to begin anew"
                raise InputError(_differs(path, head, about), hint=hint)
            head, rows = b"", b""
        if not head:
            start = json.dumps({"about": dict(about)}, sort_keys=True) + "\n"
            path.write_text(start, encoding="utf-8")
            return
        self._read(rows)
        os.truncate(path, len(whole))

    def _read(self, rows: bytes) -> None:
        for number, line in enumerate(rows.splitlines(), start=2):
            try:
                row = json.loads(line)
                found = [Detection(_box(box), s, label) for box, s, label in row["found"]]
                self.found[int(row["frame"])] = found
            except (ValueError, TypeError, KeyError) as err:
                hint = "the file is damaged: --overwrite begins anew"
                raise DataError(f"{self._path}:{number}: no line of a journal", hint=hint) from err

    def add(self, frames: Sequence[int], found: Sequence[Sequence[Detection]]) -> None:
        """Append frames."""
        if self._file is None:
            raise ValueError("the journal is not open")
        for frame, own in zip(frames, found, strict=True):
            self.found[frame] = list(own)
            rows = [[list(d.box), d.score, d.label] for d in own]
            self._file.write(json.dumps({"frame": frame, "found": rows}).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _box(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = numbers
    return float(x1), float(y1), float(x2), float(y2)


def _head(path: Path, line: bytes) -> dict[str, Any]:
    try:
        about = json.loads(line)["about"]
        return dict(about)
    except (ValueError, TypeError, KeyError) as err:
        hint = "--overwrite begins anew; or name another folder"
        raise DataError(f"{path}:1: no head of a journal", hint=hint) from err


def _agrees(path: Path, line: bytes, about: Mapping[str, Any]) -> bool:
    return _head(path, line) == json.loads(json.dumps(dict(about)))


def _differs(path: Path, line: bytes, about: Mapping[str, Any]) -> str:
    old, new = _head(path, line), json.loads(json.dumps(dict(about)))
    names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return f"{path.parent}: holds a search with other {', '.join(names)}"
