"""Blocks on the disk become rows of `shards`: only whole ones, only of this run's settings."""

from __future__ import annotations

import json
import logging
import re
import time
import zlib
from typing import TYPE_CHECKING, Any

from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.edges import COLUMNS, Edges
from mlkit_cluster.store.files import disk_errors
from mlkit_cluster.store.fingerprint import canonical_json
from mlkit_cluster.store.matrix import (
    DIGEST_SIZE,
    FOLDER,
    PREFIX,
    Block,
    Matrix,
    block_file,
    manifest_file,
)
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_cluster.store.database import RunStore
    from mlkit_cluster.store.distance_spec import Layout
    from mlkit_cluster.store.matrix import Kind

_log = logging.getLogger("mlkit.cluster")
_STALE_S = 3600.0  # files of killed writers older than this are removed


def adopt_blocks(run: RunStore) -> int:
    """Register whole blocks of this run's settings, each in one transaction.

    Returns:
        How many blocks were new. Damaged, foreign and overlapping ones are left out.
    """
    expected = layout(run)
    _sweep(run.folder / FOLDER)
    known = _known(run.db)
    count = 0
    for row0 in _numbers(run.folder / FOLDER, expected.kind):
        manifest = _manifest(run.folder / manifest_file(expected.kind, row0), expected)
        if manifest is None or known.get(row0) == _signature(manifest, expected):
            continue
        if not _is_whole(run.folder, manifest, expected):
            continue
        with run.transaction() as db:
            count += _register(db, manifest, expected)
    return count


def _known(db: sqlite3.Connection) -> dict[int, dict[str, tuple[int, int]]]:
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for name, row0, row1, crc32 in db.execute("SELECT component, row0, row1, crc32 FROM shards"):
        found.setdefault(row0, {})[name] = (row1, crc32)
    return found


def _signature(manifest: Mapping[str, Any], expected: Layout) -> dict[str, tuple[int, int]]:
    files = manifest["files"]
    prefix, row1 = PREFIX[expected.kind], manifest["row1"]
    return {prefix + name: (row1, files[name]["crc32"]) for name in expected.names}


def _numbers(folder: Path, kind: Kind) -> list[int]:
    pattern = re.compile(rf"{kind}-(\d{{8,}})\.json")
    names = (pattern.fullmatch(path.name) for path in folder.glob(f"{kind}-*.json"))
    return sorted(int(match[1]) for match in names if match)


def _manifest(path: Path, expected: Layout) -> dict[str, Any] | None:
    """Return a manifest of this run's settings, None for any other."""
    try:
        found = json.loads(path.read_bytes())
        row0, row1, files = int(found["row0"]), int(found["row1"]), found["files"]
        alike = set(files) == set(expected.names) and path.name.endswith(f"-{row0:08d}.json")
        # Each entry is read once here, so that what follows may rely on it.
        for name in expected.names if alike else ():
            entry = files[name]
            rows, width = entry["shape"]
            digests = len(bytes.fromhex(entry["rows"])) == DIGEST_SIZE * (row1 - row0)
            wide = width == expected.n or expected.kind == "edges"
            plain = isinstance(entry["crc32"], int) and isinstance(entry["dtype"], str)
            alike = alike and rows == row1 - row0 and wide and digests and plain
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        _log.warning("%s: cannot be read, its block is made again: %s", path, err)
        return None
    inside = 0 <= row0 < row1 <= expected.n
    if found.get("fingerprint") != expected.fingerprint or not alike or not inside:
        _log.info("%s: of other settings, left out", path)
        return None
    return found


def _is_whole(folder: Path, manifest: Mapping[str, Any], expected: Layout) -> bool:
    for name in expected.names:
        path = folder / block_file(expected.kind, name, manifest["row0"])
        entry = manifest["files"][name]
        try:
            if zlib.crc32(path.read_bytes()) == entry["crc32"]:
                continue
            _log.warning("%s: crc32 differs, its block is made again", path)
        except OSError as err:
            _log.warning("%s: cannot be read, its block is made again: %s", path, err)
        return False
    return True


def _register(db: sqlite3.Connection, manifest: Mapping[str, Any], expected: Layout) -> int:
    row0, row1 = manifest["row0"], manifest["row1"]
    overlap = "SELECT row0 FROM shards WHERE row0 < ? AND row1 > ? AND row0 != ? LIMIT 1"
    if other := db.execute(overlap, (row1, row0, row0)).fetchone():
        _log.warning("rows %d to %d: overlap the block at %d, left out", row0, row1, other[0])
        return 0
    db.execute("DELETE FROM shards WHERE row0 = ?", (row0,))
    for name in expected.names:
        entry = manifest["files"][name]
        row = (
            PREFIX[expected.kind] + name,
            row0,
            row1,
            block_file(expected.kind, name, row0),
            entry["dtype"],
        )
        row += (canonical_json(entry["shape"]), entry["crc32"], "complete")
        db.execute(
            "INSERT INTO shards (component, row0, row1, path, dtype, shape, crc32, state, "
            "row_checks) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, bytes.fromhex(entry["rows"])),
        )
    return 1


def _sweep(folder: Path) -> None:
    """Remove what killed writers left; young files may be another process's own."""
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()
        except OSError as err:
            _log.debug("%s: not removed: %s", path, err)


def missing_blocks(run: RunStore, n: int, rows_per_block: int) -> list[tuple[int, int]]:
    """Return (row0, row1) of rows that no registered block holds.

    Args:
        run: Whose blocks have been adopted.
        n: Rows of the matrix.
        rows_per_block: Blocks end at its multiples, so that a resumed run makes the same ones.
    """
    done = "SELECT DISTINCT row0, row1 FROM shards ORDER BY row0"
    with disk_errors(run.path):
        held = [(int(a), int(b)) for a, b in run.db.execute(done)]
    found, row = [], 0
    for start, end in [*held, (n, n)]:
        while row < start:
            stop = min(start, row - row % rows_per_block + rows_per_block)
            found.append((row, stop))
            row = stop
        row = max(row, end)
    return found


def blocks_of(run: RunStore, kind: Kind, name: str) -> list[Block]:
    """Return the registered blocks of one array, in order; edges' arrays are `edges-<name>`."""
    query = "SELECT path, row0, row1, crc32 FROM shards WHERE component = ? ORDER BY row0"
    with disk_errors(run.path):
        return [
            Block(run.folder / row[0], *row[1:])
            for row in run.db.execute(query, (PREFIX[kind] + name,))
        ]


def drop_damaged_blocks(run: RunStore) -> int:
    """Forget blocks of which a file is gone or changed; return how many."""
    damaged = set()
    expected = layout(run)
    for name in expected.names:
        for block in blocks_of(run, expected.kind, name):
            try:
                block.verify()
            except MlkitError as err:
                _log.warning("%s", err)
                damaged.add(block.row0)
    with run.transaction() as db:
        db.executemany("DELETE FROM shards WHERE row0 = ?", [(row0,) for row0 in sorted(damaged)])
    return len(damaged)


def open_matrix(run: RunStore, component: str, *, verify: bool = False) -> Matrix:
    """Return a component of the full matrix.

    Raises:
        MlkitError: It is not computed, not whole, or (with `verify`) damaged.
    """
    expected = layout(run)
    if expected.kind == "edges":
        raise MlkitError(f"{run.path}: holds nearest neighbours only, no full matrix")
    return _open(run, expected, component, verify=verify)


def open_edges(run: RunStore, *, verify: bool = False) -> Edges:
    """Return the edges of a run in mode "knn".

    Raises:
        MlkitError: They are not computed, not whole, or (with `verify`) damaged.
    """
    expected = layout(run)
    if expected.kind == "block":
        raise MlkitError(f"{run.path}: holds the full matrix, no edges")
    found = {name: _open(run, expected, name, verify=verify) for name in expected.names}
    return Edges(found.pop(COLUMNS), found)


def _open(run: RunStore, expected: Layout, name: str, *, verify: bool) -> Matrix:
    if name not in expected.names:
        known = ", ".join(expected.names)
        raise MlkitError(f"{run.path}: component {name!r}: these distances hold {known}")
    missing = missing_blocks(run, expected.n, expected.n or 1)
    if missing:
        first, last = missing[0]
        message = f"{run.path}: distances: rows {first} to {last - 1} are missing"
        raise MlkitError(message, hint="run `mlkit cluster distances` again: it goes on from there")
    query = "SELECT dtype, shape FROM shards WHERE component = ? ORDER BY row0 LIMIT 1"
    row = run.db.execute(query, (PREFIX[expected.kind] + name,)).fetchone() or ("<f4", "[0, 0]")
    matrix = Matrix(name, blocks_of(run, expected.kind, name), json.loads(row[1])[1], row[0])
    if verify:
        matrix.verify()
    return matrix
