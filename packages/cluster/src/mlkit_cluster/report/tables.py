"""Reads a run's database by plain SQL, once: `read_run`, `read_embeddings`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.report.source import (
    COUNTS,
    LOSSES,
    METRICS,
    UNASSIGNED,
    Boxes,
    Clustering,
    Projection,
    Record,
    RunData,
)
from mlkit_cluster.store.database import open_run
from mlkit_cluster.store.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_COORDINATES = ("x1", "y1", "x2", "y2")


def read_run(run: Path) -> RunData:
    """Return everything about a run but embeddings and distances.

    Args:
        run: Its folder, or its `run.db`.

    Raises:
        InputError: There is no run.
        MlkitError: Its database is damaged.
    """
    with open_run(run, readonly=True) as store, disk_errors(store.path):
        store.db.row_factory = sqlite3.Row
        return _read(store.db, store.folder)


def _read(db: sqlite3.Connection, folder: Path) -> RunData:
    metadata = {row["key"]: row["value"] for row in db.execute("SELECT key, value FROM metadata")}
    images = db.execute("SELECT * FROM images WHERE error IS NULL ORDER BY img_id").fetchall()
    ids = np.array([row["img_id"] for row in images], np.int64)
    failed = db.execute("SELECT path, error FROM images WHERE error IS NOT NULL ORDER BY img_id")
    columns, flags = _measures(db, ids)
    embeddings = db.execute("SELECT DISTINCT encoder FROM embeddings ORDER BY encoder")
    return RunData(
        folder=folder,
        metadata=metadata,
        runs=_runs(db),
        img_ids=ids,
        paths=tuple(row["path"] for row in images),
        shas=tuple(row["sha"] for row in images),
        root=Path(metadata.get("image_root", "")),
        sizes=np.array([(row["w"] or 0, row["h"] or 0) for row in images], np.int64).reshape(-1, 2),
        letterbox=_numbers(images, ("ratio", "pad_x", "pad_y")),
        splits=tuple(row["split"] or "" for row in images),
        failed=tuple((row["path"], row["error"]) for row in failed),
        columns=columns,
        flags=flags,
        classes={source: _class_counts(db, ids, source) for source in ("gt", "pred")},
        predictions=_boxes(db, ids, "predictions"),
        labels=_boxes(db, ids, "labels"),
        clusterings=_clusterings(db, ids),
        projections=_projections(db, ids),
        evaluations=_loaded(db, "evaluations", ("params", "scores")),
        encoders=tuple(row["encoder"] for row in embeddings),
    )


def positions_of(
    ids: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return where each wanted id stands in sorted ids, -1 where it does not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[found] == wanted, found, -1)


def _numbers(rows: Sequence[sqlite3.Row], names: Sequence[str]) -> npt.NDArray[np.float32]:
    values = [[np.nan if row[n] is None else row[n] for n in names] for row in rows]
    return np.array(values, np.float32).reshape(-1, len(names))


def _loaded(db: sqlite3.Connection, table: str, texts: Sequence[str]) -> tuple[Record, ...]:
    """Return a table's rows with columns of JSON read; what is no JSON stays text."""
    made = []
    for row in db.execute(f"SELECT * FROM {table} ORDER BY created_ts, rowid"):
        record = dict(row)
        for name in texts:
            record[name] = _json(record[name])
        made.append(record)
    return tuple(made)


def _json(text: str | None) -> object:
    try:
        return json.loads(text or "null")
    except ValueError:
        return text


def _runs(db: sqlite3.Connection) -> tuple[Record, ...]:
    runs = _loaded(db, "runs", ("gains", "components", "names", "options", "versions"))
    return tuple(sorted(runs, key=lambda run: run["kind"] != "yolo"))


def _measures(
    db: sqlite3.Connection, ids: npt.NDArray[np.int64]
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[np.int64]]]:
    """Return metrics, losses and counts, and the flags, of the detector's own rows."""
    rows = db.execute("SELECT * FROM embeddings WHERE encoder = 'yolo' ORDER BY img_id").fetchall()
    where = positions_of(ids, np.array([row["img_id"] for row in rows], np.int64))
    names = (*METRICS, *LOSSES, *COUNTS)
    table = np.full((len(ids), len(names)), np.nan, np.float32)
    table[where[where >= 0]] = _numbers(rows, names)[where >= 0]
    flags = np.full((len(ids), 2), -1, np.int64)
    found = np.nan_to_num(_numbers(rows, ("flag_cat", "flag_supercat")), nan=-1)
    flags[where[where >= 0]] = found[where >= 0].astype(np.int64)
    columns = {name: table[:, number] for number, name in enumerate(names)}
    return columns, {"cat": flags[:, 0], "supercat": flags[:, 1]}


def _class_counts(
    db: sqlite3.Connection, ids: npt.NDArray[np.int64], source: str
) -> npt.NDArray[np.int64]:
    query = "SELECT img_id, class_id, n FROM image_classes WHERE source = ? ORDER BY img_id"
    found = np.array([tuple(r) for r in db.execute(query, (source,))], np.int64).reshape(-1, 3)
    found[:, 0] = positions_of(ids, found[:, 0])
    return found[found[:, 0] >= 0]


def _boxes(db: sqlite3.Connection, ids: npt.NDArray[np.int64], table: str) -> Boxes:
    rows = db.execute(f"SELECT * FROM {table} ORDER BY img_id, id").fetchall()
    where = positions_of(ids, np.array([row["img_id"] for row in rows], np.int64))
    rows = [row for row, position in zip(rows, where, strict=True) if position >= 0]
    counts = np.bincount(where[where >= 0], minlength=len(ids))
    sure = table == "labels"
    return Boxes(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        original_xyxy=_numbers(rows, [f"box_{name}" for name in _COORDINATES]),
        input_xyxy=_numbers(rows, [f"input_{name}" for name in _COORDINATES]),
        classes=np.array([row["class_id"] for row in rows], np.int64),
        confidences=np.array([1 if sure else row["confidence"] for row in rows], np.float32),
        masks=tuple(row["mask"] for row in rows),
    )


def _clusterings(db: sqlite3.Connection, ids: npt.NDArray[np.int64]) -> tuple[Clustering, ...]:
    made: list[Clustering] = []
    query = "SELECT * FROM assignments WHERE clustering_id = ? ORDER BY img_id"
    for record in _loaded(db, "clusterings", ("params",)):
        rows = db.execute(query, (record["clustering_id"],)).fetchall()
        where = positions_of(ids, np.array([row["img_id"] for row in rows], np.int64))
        known = where >= 0
        labels = np.full(len(ids), UNASSIGNED, np.int64)
        labels[where[known]] = np.array([row["label"] for row in rows], np.int64)[known]
        scores = np.full((len(ids), 3), np.nan, np.float32)
        scores[where[known]] = _numbers(rows, ("medoid", "prob", "silhouette"))[known]
        name, params = record["clustering_id"], record["params"] or {}
        middle = scores[:, 0] == 1
        made.append(Clustering(name, params, labels, middle, scores[:, 1], scores[:, 2]))
    return tuple(made)


def _projections(db: sqlite3.Connection, ids: npt.NDArray[np.int64]) -> tuple[Projection, ...]:
    made: list[Projection] = []
    query = "SELECT img_id, x, y FROM coordinates WHERE projection_id = ? ORDER BY img_id"
    for record in _loaded(db, "projections", ("params",)):
        rows = db.execute(query, (record["projection_id"],)).fetchall()
        where = positions_of(ids, np.array([row["img_id"] for row in rows], np.int64))
        xy = np.full((len(ids), 2), np.nan, np.float32)
        xy[where[where >= 0]] = _numbers(rows, ("x", "y"))[where >= 0]
        made.append(Projection(record["projection_id"], record["params"] or {}, xy))
    return tuple(made)


def read_embeddings(
    run: Path, ids: npt.NDArray[np.int64], encoder: str = "yolo"
) -> npt.NDArray[np.float32]:
    """Return one encoder's embeddings `[N, D]`, NaN rows where an image has none, D 0 if none."""
    query = "SELECT img_id, embedding FROM embeddings WHERE encoder = ? ORDER BY img_id"
    with open_run(run, readonly=True) as store, disk_errors(store.path):
        store.db.row_factory = sqlite3.Row
        rows = store.db.execute(query, (encoder,)).fetchall()
    dim = len(rows[0]["embedding"]) // 4 if rows else 0
    where = positions_of(ids, np.array([row["img_id"] for row in rows], np.int64))
    made = np.full((len(ids), dim), np.nan, np.float32)
    for row, position in zip(rows, where, strict=True):
        if position >= 0 and len(row["embedding"]) == 4 * dim:
            made[position] = np.frombuffer(row["embedding"], "<f4")
    return made
