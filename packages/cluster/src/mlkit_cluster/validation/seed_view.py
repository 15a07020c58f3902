"""The earlier system's two files, open for reading."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_cluster.store.files import absolute, disk_errors, stored_text
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class SeedView:
    """Both files, open for reading."""

    emb: sqlite3.Connection
    dist: sqlite3.Connection

    def columns(self, db: sqlite3.Connection, table: str) -> set[str]:
        """Return the columns of a table, none where there is no such table."""
        return {row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}

    def ids(self) -> list[int]:
        """Return the ids of the images that have embeddings, ascending."""
        query = "SELECT DISTINCT img_id FROM embeddings ORDER BY 1"
        return [row[0] for row in self.emb.execute(query)]


def open_file(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads.

    Raises:
        InputError: The file is missing or no database.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with disk_errors(path):
        db = sqlite3.connect(absolute(path).as_uri() + "?mode=ro", uri=True)
        db.text_factory = stored_text
        try:
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
    return db
