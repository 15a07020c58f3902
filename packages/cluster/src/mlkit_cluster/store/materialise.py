"""Distances as rows of plain SQL: `distances` and `neighbors`, read from the files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.entries import matrix_ids

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

    from mlkit_cluster.store.database import RunStore

    Row = tuple[int, int, str, float]

ALL_PAIRS, NEAREST = "all pairs", "nearest neighbours"
_NUMBERS_PER_BATCH = 100_000  # of each component; a batch is one transaction


@dataclass(frozen=True)
class RowBatch:
    """Distances of some rows, to all columns or to those of `columns`.

    Args:
        row0: Index of the first row.
        columns: `[rows, K]` indices, -1 where there is no edge; None: all, in order.
        values: Component to `[rows, N]` or `[rows, K]` float32.
    """

    row0: int
    columns: np.ndarray | None
    values: Mapping[str, np.ndarray]


def total_of(values: Mapping[str, np.ndarray], gains: Mapping[str, float]) -> np.ndarray:
    """Return the gain-weighted sum of the components, float32; NaN where one is NaN."""
    parts = [np.float32(gains[name]) * array for name, array in values.items()]
    return np.add.reduce(parts, axis=0, dtype=np.float32)


def row_batches(run: RunStore) -> Iterator[RowBatch]:
    """Yield all rows in order, some at a time, in either mode."""
    expected = layout(run)
    knn = expected.kind == "edges"
    edges = run.open_edges() if knn else None
    parts = {} if knn else {name: run.open_matrix(name) for name in expected.names}
    width = max(edges.columns.shape[1] if edges else expected.n, 1)
    step = max(_NUMBERS_PER_BATCH // width, 1)
    for row0 in range(0, expected.n, step):
        row1 = min(row0 + step, expected.n)
        if edges:
            yield RowBatch(row0, *edges.rows(row0, row1))
        else:
            values = {name: matrix.rows(row0, row1) for name, matrix in parts.items()}
            yield RowBatch(row0, None, values)


def nearest(values: np.ndarray, k: int) -> list[np.ndarray]:
    """Return for each row the places of its k smallest numbers, ascending; never NaN's.

    Args:
        values: `[rows, K]`; NaN for what must not be found.
        k: At most this many; ties by place.
    """
    ranked = np.where(np.isnan(values), np.inf, values)
    found = []
    for row in ranked:
        places = np.arange(len(row))
        if k < len(row):
            # All that are not above the k-th, so that ties at the edge go by place too.
            places = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])
        order = places[np.argsort(row[places], kind="stable")][:k]
        found.append(order[np.isfinite(row[order])])
    return found


def without_self(batch: RowBatch, values: np.ndarray) -> np.ndarray:
    """Return distances with NaN for a row's own image and for empty places."""
    values = values.copy()
    rows = np.arange(len(values))
    if batch.columns is None:
        values[rows, batch.row0 + rows] = np.nan
    else:
        own = batch.columns == (batch.row0 + rows)[:, None]
        values[own | (batch.columns < 0)] = np.nan
    return values


def pair_rows(run: RunStore, *, everything: bool, k: int = 50) -> Iterator[list[Row]]:
    """Yield batches of (img_i, img_j, component, distance); a distance may be NaN.

    Args:
        run: Whose distances.
        everything: All pairs that are there; else each row's k nearest by total.
        k: Of them.
    """
    ids, gains = np.array(matrix_ids(run), np.int64), run.gains()
    for batch in row_batches(run):
        found: list[Row] = []
        chosen = None
        if not everything:
            chosen = nearest(without_self(batch, total_of(batch.values, gains)), k)
        for place in range(len(next(iter(batch.values.values())))):
            columns = _columns(batch, place, len(ids), None if chosen is None else chosen[place])
            found += _rows_of(batch, place, columns, ids)
        yield found


def _columns(
    batch: RowBatch, place: int, n: int, chosen: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return places within the row, and the columns that stand there."""
    if batch.columns is None:
        places = np.arange(n) if chosen is None else chosen
        return places, places
    row = batch.columns[place]
    places = np.flatnonzero(row >= 0) if chosen is None else chosen
    return places, row[places]


def _rows_of(
    batch: RowBatch, place: int, columns: tuple[np.ndarray, np.ndarray], ids: np.ndarray
) -> list[Row]:
    img_i, others = int(ids[batch.row0 + place]), ids[columns[1]].tolist()
    rows: list[Row] = []
    for name, values in batch.values.items():
        numbers = values[place, columns[0]].tolist()
        rows += zip(repeat(img_i), others, repeat(name), numbers, strict=False)
    return rows


def materialise_distances(run: RunStore, limit: int, k: int) -> int:
    """Fill `distances` with all pairs up to `limit` images, with nearest neighbours beyond.

    `neighbors` holds each row's k nearest by "total" and by each component, never itself and never
    a pair whose distance is unknown. Metadata `distances_table` is set once all is written.

    Args:
        run: Whose distances are complete.
        limit: Images up to which all pairs are written; edges of mode "knn" always are.
        k: Neighbours of an image.

    Returns:
        Rows of `distances`.

    Raises:
        MlkitError: Rows of the matrix are missing.
    """
    expected = layout(run)
    _check_whole(run)
    full = expected.kind == "block" and expected.n <= limit
    with run.transaction() as db:
        db.execute("DELETE FROM distances")
        db.execute("DELETE FROM neighbors")
        db.execute("DELETE FROM metadata WHERE key = 'distances_table'")
        db.execute("DROP INDEX IF EXISTS distances_pair")  # made at once below, which is faster
    everything = full or expected.kind == "edges"
    count = 0
    for rows in pair_rows(run, everything=everything, k=k):
        with run.transaction() as db:
            count += _insert(db, rows)
    _fill_neighbors(run, k)
    with run.transaction() as db:
        db.execute("CREATE INDEX IF NOT EXISTS distances_pair ON distances (img_i, img_j)")
    run.set_metadata({"distances_table": ALL_PAIRS if full else NEAREST})
    return count


def _check_whole(run: RunStore) -> None:
    """Open all arrays before anything is deleted."""
    if layout(run).kind == "edges":
        run.open_edges()
    else:
        for name in layout(run).names:
            run.open_matrix(name)


def _insert(db: sqlite3.Connection, rows: list[Row]) -> int:
    add = "INSERT INTO distances (img_i, img_j, component, distance, created_ts) "
    now = time.time()
    # SQLite stores NaN as NULL.
    db.executemany(f"{add} VALUES (?, ?, ?, ?, {now!r})", rows)
    return len(rows)


def _fill_neighbors(run: RunStore, k: int) -> None:
    ids, gains = np.array(matrix_ids(run), np.int64), run.gains()
    add = "INSERT INTO neighbors (img_i, rank, img_j, component, distance) VALUES (?, ?, ?, ?, ?)"
    for batch in row_batches(run):
        with run.transaction() as db:
            for name, values in {"total": total_of(batch.values, gains), **batch.values}.items():
                db.executemany(
                    add, _neighbor_rows(batch, without_self(batch, values), ids, name, k)
                )


def _neighbor_rows(
    batch: RowBatch, values: np.ndarray, ids: np.ndarray, name: str, k: int
) -> Iterator[tuple[int, int, int, str, float]]:
    for place, order in enumerate(nearest(values, k)):
        columns = order if batch.columns is None else batch.columns[place, order]
        img_i = int(ids[batch.row0 + place])
        numbers = values[place, order].tolist()
        for rank, (img_j, value) in enumerate(zip(ids[columns].tolist(), numbers, strict=True), 1):
            yield img_i, rank, img_j, name, value
