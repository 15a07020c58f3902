"""A run's folder and its database: opening, transactions, and what may be done with it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_cluster.store import adoption, distance_spec, entries, materialise, records, runs, schema
from mlkit_cluster.store.files import absolute, disk_errors, stored_text
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from mlkit_cluster.store.distance_spec import DistanceSpec
    from mlkit_cluster.store.edges import Edges
    from mlkit_cluster.store.entries import ImageEntry
    from mlkit_cluster.store.matrix import Matrix
    from mlkit_cluster.store.runs import RunSpec
    from mlkit_core.types import ImageRecord

FILE = "run.db"
BUSY_MS = 30_000


class RunStore:
    """A run, open; a context manager. What it commits survives a kill at any point.

    Args:
        folder: The run's.
        db: Connection in autocommit mode, so that `transaction` alone decides.
        readonly: Whether writing is refused.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection, *, readonly: bool) -> None:
        self.folder, self.db, self.readonly = folder, db, readonly
        self.path = folder / FILE

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; what was not committed is undone."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all of the block or nothing; other writers wait.

        Raises:
            MlkitError: The disk is full, or the database locked or damaged.
        """
        with disk_errors(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                with suppress(sqlite3.Error):
                    if self.db.in_transaction:
                        self.db.execute("ROLLBACK")
                raise

    def metadata(self) -> dict[str, str]:
        """Return the table `metadata`; structured values are JSON."""
        with disk_errors(self.path):
            return dict(self.db.execute("SELECT key, value FROM metadata ORDER BY key"))

    def set_metadata(self, values: Mapping[str, str]) -> None:
        """Write keys of `metadata`, replacing their values."""
        with self.transaction() as db:
            put_metadata(db, values)

    def image_path(self, path: str) -> Path:
        """Return where an image lies: a relative path starts at `image_root`."""
        return Path(self.metadata().get("image_root", "")) / path

    def register_images(self, paths: Sequence[ImageEntry]) -> int:
        """Give each new path an id, in order; see `entries.register_images`."""
        return entries.register_images(self, paths)

    def pending(self, encoder: str = "yolo") -> list[tuple[int, str]]:
        """Return id and path of the images that an encoder has no row for, failed ones left out."""
        return entries.pending(self, encoder)

    def clear_failures(self) -> int:
        """Forget errors, so that failed images are tried again; return how many."""
        return entries.clear_failures(self)

    def begin_run(self, spec: RunSpec) -> str:
        """Note a run's settings, or check them against those noted; return its fingerprint."""
        return runs.begin_run(self, spec)

    def gains(self) -> dict[str, float]:
        """Return component to its weight in a total."""
        return runs.gains(self)

    def write_records(self, found: Sequence[ImageRecord], *, full_maps: bool = False) -> int:
        """Write a batch in one transaction; see `records.write_records`."""
        return records.write_records(self, found, full_maps=full_maps)

    def write_embeddings(
        self, encoder: str, fingerprint: str, img_ids: Sequence[int], embeddings: np.ndarray
    ) -> int:
        """Write rows of another encoder; see `records.write_embeddings`."""
        return records.write_embeddings(self, encoder, fingerprint, img_ids, embeddings)

    def write_failure(self, img_id: int, error: str) -> None:
        """Note why an image gave no record; it has no place in the matrix."""
        records.write_failure(self, img_id, error)

    def begin_distances(self, spec: DistanceSpec, *, replace: bool = False) -> str:
        """Note what the distances are of, or check it; return their fingerprint."""
        return distance_spec.begin_distances(self, spec, replace=replace)

    def adopt_blocks(self) -> int:
        """Register the whole blocks found on the disk; return how many were new."""
        return adoption.adopt_blocks(self)

    def missing_blocks(self, n: int, rows_per_block: int) -> list[tuple[int, int]]:
        """Return (row0, row1) of what is not registered, aligned to multiples."""
        return adoption.missing_blocks(self, n, rows_per_block)

    def drop_damaged_blocks(self) -> int:
        """Forget blocks whose files are gone or changed, so that they are made again."""
        return adoption.drop_damaged_blocks(self)

    def open_matrix(self, component: str, *, verify: bool = False) -> Matrix:
        """Return a component of the full matrix, read through memory maps."""
        return adoption.open_matrix(self, component, verify=verify)

    def open_edges(self, *, verify: bool = False) -> Edges:
        """Return the edges of a run in mode "knn"."""
        return adoption.open_edges(self, verify=verify)

    def materialise_distances(self, limit: int = 1000, k: int = 50) -> int:
        """Fill `distances` and `neighbors`; see `materialise.materialise_distances`."""
        return materialise.materialise_distances(self, limit, k)


def put_metadata(db: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Write keys of `metadata` within the caller's transaction."""
    db.executemany(
        "INSERT INTO metadata (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        list(values.items()),
    )


def run_folder(path: Path) -> Path:
    """Return the folder of a run that is named by its folder or by its database."""
    named = path.name == FILE and not path.is_dir()
    return absolute(path.parent if named else path)


def open_run(path: Path, *, create: bool = False, readonly: bool = False) -> RunStore:
    """Open a run.

    Args:
        path: Its folder, or `run.db` in it.
        create: Make folder and database where they are missing.
        readonly: Never write, not even to the file's journal where the folder forbids it.

    Raises:
        InputError: There is no run, it is no database, or of another version of the schema.
        MlkitError: The disk is full, or the database locked or damaged.
    """
    folder = run_folder(Path(path))
    file = folder / FILE
    if not file.is_file():
        if not create:
            hint = "`mlkit cluster extract` makes one; name its folder"
            raise InputError(f"{path}: no run of mlkit cluster here: {FILE} is missing", hint=hint)
        with disk_errors(file):
            folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(file):
        db = _connect(file, readonly=readonly)
    try:
        with disk_errors(file):
            _prepare(db, file, readonly=readonly)
            _check_schema(db, file)
    except BaseException:
        db.close()
        raise
    return RunStore(folder, db, readonly=readonly)


def _connect(file: Path, *, readonly: bool) -> sqlite3.Connection:
    options = ""
    if readonly:
        # SQLite needs to write a `-shm` file even for reading, unless told that nobody writes.
        frozen = not os.access(file.parent, os.W_OK) and not file.with_name(FILE + "-wal").exists()
        options = "?immutable=1" if frozen else "?mode=ro"
    db = sqlite3.connect(file.as_uri() + options, uri=True, isolation_level=None)
    db.text_factory = stored_text
    return db


def _prepare(db: sqlite3.Connection, file: Path, *, readonly: bool) -> None:
    db.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    db.execute("PRAGMA foreign_keys=ON")
    if readonly:
        db.execute("PRAGMA query_only=ON")
        return
    known = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if known and "metadata" not in known:
        raise InputError(f"{file}: an SQLite database, but no run of mlkit cluster")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if not known:
        _create(db)


def _create(db: sqlite3.Connection) -> None:
    """Make all tables at once, so that a killed start leaves an empty file or a whole one."""
    version = f"INSERT OR IGNORE INTO metadata VALUES ('schema_version', '{schema.VERSION}');"
    db.executescript(f"BEGIN IMMEDIATE;\n{schema.TABLES}\n{version}\nCOMMIT;")


def _check_schema(db: sqlite3.Connection, file: Path) -> None:
    try:
        found = db.execute("SELECT value FROM metadata WHERE key = 'schema_version'").fetchone()
    except sqlite3.OperationalError as err:
        if "no such table" not in str(err):
            raise
        raise InputError(
            f"{file}: an SQLite database, but no run of mlkit cluster",
            hint="`mlkit cluster validate EMB.db DIST.db` checks the earlier two-file layout",
        ) from err
    got = found[0] if found else "none"
    if got != str(schema.VERSION):
        raise InputError(
            f"{file}: schema version: expected {schema.VERSION}, got {got}",
            hint="use the version of mlkit-cluster that wrote it, or extract into another -o",
        )
