"""Reading a CSV table with line numbers."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_angioseg.frames.rows import Problems

Cells = dict[str, str]


def read_table(path: Path, problems: Problems) -> list[tuple[str, Cells]]:
    """Return `(file:line, cells)` for each row; the header is line 1, cells are stripped.

    Raises:
        DataError: The file is missing, empty, no CSV text, or names a column twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(f"{path.name}:{reader.line_num}", row) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise DataError(f"{path}: cannot be read as a CSV table: {err}") from err
    if not header or not rows:
        raise DataError(f"{path}: the table is empty")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {', '.join(map(repr, twice))} stands twice in the header")
    table = []
    for where, row in rows:
        if len(row) != len(header):
            problems.add(where, f"expected {len(header)} cells, got {len(row)}")
        else:
            cells = (cell.strip() for cell in row)
            table.append((where, dict(zip(header, cells, strict=True))))
    return table


def cell(cells: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the first cell of these columns that is not empty, or an empty string."""
    return next((cells[name] for name in names if cells.get(name)), "")


def require_columns(path: Path, cells: Cells, wanted: Sequence[Sequence[str]]) -> None:
    """Raise DataError unless the table has one of each group of names."""
    for names in wanted:
        if not any(name in cells for name in names):
            raise DataError(
                f"{path}: no column {' or '.join(map(repr, names))}; there are {', '.join(cells)}"
            )
