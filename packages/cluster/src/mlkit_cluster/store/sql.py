"""SQL over a run that can only read, with two functions for what lies outside the tables.

`mlkit_json(blob)` gives features or an embedding as JSON text; `mlkit_dist(i, j, component)` the
distance of two image ids ("total" too), NULL where unknown.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_cluster.store.blobs import features_json
from mlkit_cluster.store.database import open_run
from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.entries import matrix_ids
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlkit_cluster.store.database import RunStore

    Cell = int | float | str | bytes | None

_ALLOWED = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    }
)
_READ_PRAGMAS = frozenset({"table_info", "table_list", "index_list", "index_info", "user_version"})


@dataclass(frozen=True)
class SqlResult:
    """Columns' names and rows of a query; blobs stay bytes."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    def records(self) -> list[dict[str, Cell]]:
        """Return rows by name, with blobs as hex digits, so that JSON can hold them."""
        return [
            {
                k: v.hex() if isinstance(v, bytes) else v
                for k, v in zip(self.columns, row, strict=True)
            }
            for row in self.rows
        ]


def run_sql(path: Path, query: str) -> SqlResult:
    """Return the result of one query; nothing can be written, attached or loaded by it.

    Args:
        path: A run's folder or database.
        query: One statement.

    Raises:
        InputError: The query is wrong or would write.
        MlkitError: A registered function failed, or the database is damaged.
    """
    with open_run(path, readonly=True) as run:
        failures: list[MlkitError] = []
        register(run, failures)
        run.db.set_authorizer(_authorize)
        try:
            cursor = run.db.execute(query)
            rows = cursor.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as err:
            if failures:
                raise failures[0] from err
            hint = "sql only reads" if "not authorized" in str(err) else ""
            raise InputError(f"sql: {err}", hint=hint) from err
        columns = tuple(column[0] for column in cursor.description or ())
        return SqlResult(columns, rows)


def _authorize(action: int, name: str | None, value: str | None, *_: str | None) -> int:
    reads = action == sqlite3.SQLITE_PRAGMA and name in _READ_PRAGMAS
    if action in _ALLOWED and value != "load_extension":
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if reads else sqlite3.SQLITE_DENY


def register(run: RunStore, failures: list[MlkitError]) -> None:
    """Register `mlkit_json` and `mlkit_dist` with a run's connection.

    Args:
        run: Open.
        failures: Gathers what the functions raise, because SQLite hides it.
    """
    distance = _Distance(run)

    def noted(function: Callable[..., Cell]) -> Callable[..., Cell]:
        def call(*values: Cell) -> Cell:
            try:
                return function(*values)
            except MlkitError as err:
                failures.append(err)
                raise

        return call

    def as_json(blob: Cell) -> Cell:
        if blob is None:
            return None
        if not isinstance(blob, bytes):
            raise MlkitError(f"mlkit_json: expected a blob, got {blob!r}")
        return features_json(blob, run.folder)

    run.db.create_function("mlkit_json", 1, noted(as_json), deterministic=True)
    run.db.create_function("mlkit_dist", 3, noted(distance), deterministic=True)


class _Distance:
    """Looks distances up by image ids, through memory maps opened on first use."""

    def __init__(self, run: RunStore) -> None:
        self.run = run
        self._lookup: Callable[[str, int, int], float | None] | None = None
        self._places: dict[int, int] = {}
        self._gains: dict[str, float] = {}

    def _open(self) -> Callable[[str, int, int], float | None]:
        expected = layout(self.run)
        self._places = {img_id: place for place, img_id in enumerate(matrix_ids(self.run))}
        gains = self.run.gains()
        if expected.kind == "edges":
            edges = self.run.open_edges()
            self._gains = {name: gains[name] for name in edges.components}
            return edges.value
        parts = {name: self.run.open_matrix(name) for name in expected.names}
        self._gains = {name: gains[name] for name in parts}

        def value(component: str, row: int, column: int) -> float | None:
            if component not in parts:
                raise MlkitError(f"component {component!r}: the matrix holds {', '.join(parts)}")
            return parts[component].value(row, column)

        return value

    def __call__(self, img_i: Cell, img_j: Cell, component: Cell) -> Cell:
        self._lookup = lookup = self._lookup or self._open()
        row, column = self._places.get(_id(img_i), -1), self._places.get(_id(img_j), -1)
        if row < 0 or column < 0:
            return None
        if component != "total":
            return _known(lookup(str(component), row, column))
        parts = [_known(lookup(name, row, column)) for name in self._gains]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return math.fsum(
            gain * part for gain, part in zip(self._gains.values(), known, strict=True)
        )


def _id(value: Cell) -> int:
    return value if isinstance(value, int) else -1


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
