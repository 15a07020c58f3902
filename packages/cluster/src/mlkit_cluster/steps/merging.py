"""`merge`: what the jobs of a job array wrote becomes part of the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlkit_cluster.steps.distances import merge as merge_blocks
from mlkit_cluster.store.blobs import read_header, unpack_features
from mlkit_cluster.store.checks import write_checks
from mlkit_cluster.store.database import open_run, put_metadata, run_folder
from mlkit_cluster.store.maps import write_maps
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_cluster.store.database import RunStore

_log = logging.getLogger("mlkit.cluster")
_BATCH = 256  # images in one transaction
_TABLES = ("embeddings", "features", "predictions", "labels", "image_classes", "row_checks")


def merge(path: Path) -> dict[str, int]:
    """Join parts of extraction and blocks of distances; merging again changes nothing.

    Returns:
        Images that were new, images still missing, and rows of distances still missing.

    Raises:
        InputError: There are no parts, or they were made with other settings.
    """
    folder = run_folder(path)
    parts = sorted((folder / "parts").glob("*-of-*/run.db"))
    if not parts and not (folder / "run.db").is_file():
        raise InputError(f"{path}: no run and no parts of one", hint="run the jobs first")
    with open_run(folder, create=bool(parts)) as run:
        new = sum(_join(run, part) for part in parts)
        waiting = len(run.pending("yolo"))
        known = "distance_fingerprint" in run.metadata()
    missing = merge_blocks(folder) if known and not waiting else 0
    return {"images new": new, "images missing": waiting, "rows missing": missing}


def _join(run: RunStore, part: Path) -> int:
    """Copy what a part holds and the run lacks; return how many images that were."""
    run.db.execute("ATTACH DATABASE ? AS part", (f"{part.as_uri()}?mode=ro",))
    try:
        _join_settings(run, part)
        new = 0
        while ids := _missing(run.db):
            with run.transaction() as db:
                _copy(db, run, part.parent, ids)
            new += len(ids)
        with run.transaction() as db:
            _copy_others(db)
    finally:
        run.db.execute("DETACH DATABASE part")
    _log.info("%s: %d images were new", part.parent.name, new)
    return new


def _join_settings(run: RunStore, part: Path) -> None:
    """Note the part's settings and images, or check that they are the run's own."""
    with run.transaction() as db:
        differ = db.execute(
            "SELECT r.encoder FROM part.runs p JOIN main.runs r ON r.encoder = p.encoder "
            "WHERE r.fingerprint != p.fingerprint"
        ).fetchone()
        other = db.execute(
            "SELECT 1 FROM part.images p JOIN main.images i ON i.img_id = p.img_id "
            "WHERE i.path != p.path"
        ).fetchone()
        if differ or other:
            what = f"other settings of {differ[0]}" if differ else "other images"
            raise InputError(
                f"{part.parent}: made with {what} than the run",
                hint="remove the part, or give its jobs the settings of the others",
            )
        _insert_missing(db, "runs")
        db.execute(
            "INSERT OR IGNORE INTO main.images (img_id, path, split) "
            "SELECT img_id, path, split FROM part.images ORDER BY img_id"
        )
        keys = "('image_root', 'labels', 'names', 'supercategories')"
        said = dict(db.execute(f"SELECT key, value FROM part.metadata WHERE key IN {keys}"))
        put_metadata(db, said)


def _insert_missing(db: sqlite3.Connection, table: str, where: str = "") -> None:
    """Copy a table's rows without their own ids; `table` is this module's own word."""
    columns = [row[1] for row in db.execute(f"PRAGMA main.table_info({table})") if row[1] != "id"]
    names = ", ".join(columns)
    order = " ORDER BY id" if table in ("predictions", "labels", "embeddings", "features") else ""
    db.execute(
        f"INSERT OR IGNORE INTO main.{table} ({names}) "
        f"SELECT {names} FROM part.{table} {where}{order}"
    )


def _missing(db: sqlite3.Connection) -> list[int]:
    query = (
        "SELECT img_id FROM part.features WHERE img_id NOT IN (SELECT img_id FROM main.features) "
        "ORDER BY img_id LIMIT ?"
    )
    return [img_id for (img_id,) in db.execute(query, (_BATCH,))]


def _copy(db: sqlite3.Connection, run: RunStore, folder: Path, ids: Sequence[int]) -> None:
    chosen = ", ".join(map(str, ids))  # integers from the database
    db.execute(
        "UPDATE main.images SET (sha, w, h, ratio, pad_x, pad_y, error) = (SELECT sha, w, h, "
        "ratio, pad_x, pad_y, error FROM part.images p WHERE p.img_id = main.images.img_id) "
        f"WHERE img_id IN ({chosen})"
    )
    for table in _TABLES:
        _insert_missing(db, table, f"WHERE img_id IN ({chosen})")
    moved = _move_maps(db, run, folder, ids)
    write_checks(db, moved, ["features"])


def _move_maps(
    db: sqlite3.Connection, run: RunStore, folder: Path, ids: Sequence[int]
) -> list[int]:
    """Bring maps that lie in the part's side files into the run's; return whose they were."""
    chosen = ", ".join(map(str, ids))
    query = (
        "SELECT img_id, bottleneck_features FROM main.features WHERE bottleneck_features "
        f"IS NOT NULL AND img_id IN ({chosen}) ORDER BY img_id"
    )
    found = [(i, blob) for i, blob in db.execute(query) if read_header(blob).side is not None]
    if not found:
        return []
    row = db.execute("SELECT value FROM main.metadata WHERE key = 'map_slots'").fetchone()
    slot = int(row[0]) if row else 0
    blobs = write_maps(run.folder, slot, [unpack_features(blob, folder) for _, blob in found])
    put_metadata(db, {"map_slots": str(slot + len(found))})
    db.executemany(
        "UPDATE main.features SET bottleneck_features = ? WHERE img_id = ?",
        [(blob, img_id) for blob, (img_id, _) in zip(blobs, found, strict=True)],
    )
    return [img_id for img_id, _ in found]


def _copy_others(db: sqlite3.Connection) -> None:
    """Copy other encoders' embeddings, and why images could not be read."""
    _insert_missing(db, "embeddings", "WHERE encoder != 'yolo'")
    _insert_missing(db, "row_checks", "WHERE part LIKE 'embedding:%'")
    db.execute(
        "UPDATE main.images SET error = (SELECT error FROM part.images p "
        "WHERE p.img_id = main.images.img_id) WHERE error IS NULL AND img_id NOT IN "
        "(SELECT img_id FROM main.features) AND img_id IN "
        "(SELECT img_id FROM part.images WHERE error IS NOT NULL)"
    )
