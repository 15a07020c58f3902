"""Export to the earlier system's two files, `EMB.db` and `DIST.db`, with JSON in feature BLOBs.

EMB.db: `embeddings` (id, img_id, embedding f4le, metrics, losses, flags), `features` (id, img_id,
gap_features, bottleneck_features, created_ts: JSON of level to nested lists), `predictions`
(one row for each detection) and `metadata` (key, value). DIST.db: `distances` (id, img_i, img_j,
component, distance, created_ts) and `metadata`. What is unknown is NULL, never 0.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from mlkit_cluster.store.blobs import features_json
from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.files import absolute, disk_errors, stored_text, sync_folder
from mlkit_cluster.store.fingerprint import canonical_json
from mlkit_cluster.store.materialise import ALL_PAIRS, NEAREST, pair_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlkit_cluster.store.database import RunStore

_LIMIT = 1000  # images up to which all pairs are exported unasked
_METADATA = "CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);"
_EMBEDDINGS = (
    "id, img_id, embedding, hit_freq, mean_iou, mean_conf, dice_score, box_loss, cls_loss, "
    "dfl_loss, seg_loss, flag_cat, flag_supercat"
)
_PREDICTIONS = (
    "id, img_id, box_x1, box_y1, box_x2, box_y2, confidence, class_id, class_name, mask, created_ts"
)
EMB_TABLES = f"""
{_METADATA}
CREATE TABLE embeddings (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL UNIQUE, embedding BLOB NOT NULL,
  hit_freq REAL, mean_iou REAL, mean_conf REAL, dice_score REAL, box_loss REAL, cls_loss REAL,
  dfl_loss REAL, seg_loss REAL, flag_cat INTEGER, flag_supercat INTEGER
);
CREATE TABLE features (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL UNIQUE, gap_features BLOB NOT NULL,
  bottleneck_features BLOB, created_ts REAL NOT NULL
);
CREATE TABLE predictions (
  id INTEGER PRIMARY KEY, img_id INTEGER NOT NULL, box_x1 REAL, box_y1 REAL, box_x2 REAL,
  box_y2 REAL, confidence REAL, class_id INTEGER, class_name TEXT, mask BLOB,
  created_ts REAL NOT NULL
);
CREATE INDEX predictions_img ON predictions (img_id);
"""
DIST_TABLES = f"""
{_METADATA}
CREATE TABLE distances (
  id INTEGER PRIMARY KEY, img_i INTEGER NOT NULL, img_j INTEGER NOT NULL,
  component TEXT NOT NULL, distance REAL, created_ts REAL NOT NULL
);
CREATE INDEX distances_pair ON distances (img_i, img_j);
"""


def export_seed_sqlite(
    run: RunStore, emb_path: Path, dist_path: Path, *, all_pairs: bool = False
) -> None:
    """Write both files; each is whole or not there.

    Args:
        run: Whose.
        emb_path: New file of embeddings, features and predictions of the detector.
        dist_path: New file of distances.
        all_pairs: All pairs whatever their number; else beyond 1000 images each image's 50 nearest.
            Edges of mode "knn" are all that there is.

    Raises:
        InputError: A file is there already.
        MlkitError: There are no distances, or the disk is full.
    """
    expected = layout(run)
    with _new_file(emb_path) as db:
        db.executescript(EMB_TABLES)
        _copy(run, db)
        _write_metadata(run, db, {"mask_format": "<HH height width, <u4 COCO run lengths"})
    everything = all_pairs or expected.kind == "edges" or expected.n <= _LIMIT
    full = everything and expected.kind == "block"
    with _new_file(dist_path) as db:
        db.executescript(DIST_TABLES)
        add = "INSERT INTO distances (img_i, img_j, component, distance, created_ts) "
        for rows in pair_rows(run, everything=everything):
            # SQLite stores NaN as NULL.
            db.executemany(f"{add} VALUES (?, ?, ?, ?, {time.time()!r})", rows)
            db.commit()
        _write_metadata(run, db, {"distances_table": ALL_PAIRS if full else NEAREST})


@contextmanager
def _new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a database that gets its name when the block ends well."""
    path = absolute(path)
    if path.exists():
        raise InputError(f"{path}: there already", hint="remove it, or name another file")
    aside = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(aside)) as db:
                db.text_factory = stored_text
                # Nothing reads it before it is renamed: a journal would only cost.
                db.execute("PRAGMA journal_mode=OFF")
                yield db
                db.commit()
            aside.replace(path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def _copy(run: RunStore, db: sqlite3.Connection) -> None:
    with disk_errors(run.path):
        rows = run.db.execute(
            f"SELECT {_EMBEDDINGS} FROM embeddings WHERE encoder = 'yolo' ORDER BY id"
        )
        _insert(db, "embeddings", _EMBEDDINGS, rows)
        query = "SELECT id, img_id, gap_features, bottleneck_features, created_ts FROM features"
        made = (
            (row[0], row[1], _json(run, row[2]), _json(run, row[3]), row[4])
            for row in run.db.execute(f"{query} ORDER BY id")
        )
        columns = "id, img_id, gap_features, bottleneck_features, created_ts"
        _insert(db, "features", columns, made)
        rows = run.db.execute(f"SELECT {_PREDICTIONS} FROM predictions ORDER BY id")
        _insert(db, "predictions", _PREDICTIONS, rows)


def _json(run: RunStore, blob: bytes | None) -> bytes | None:
    return None if blob is None else features_json(blob, run.folder).encode()


def _insert(
    db: sqlite3.Connection, table: str, columns: str, rows: Iterator[tuple] | sqlite3.Cursor
) -> None:
    marks = ", ".join("?" * len(columns.split(",")))
    db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def _write_metadata(run: RunStore, db: sqlite3.Connection, more: dict[str, str]) -> None:
    """Write the run's metadata, what is particular to the file, and which ids have no rows."""
    failed = [row[0] for row in run.db.execute("SELECT img_id FROM images WHERE error NOT NULL")]
    values = run.metadata() | more | {"failed_images": canonical_json(failed)}
    db.executemany("INSERT INTO metadata VALUES (?, ?)", list(values.items()))
