"""Clusterings, projections and evaluations: saved under a name, replaced whole, read back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.store.files import disk_errors
from mlkit_cluster.store.fingerprint import canonical_json
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_cluster.store.database import RunStore

    Values = Sequence[float | None] | np.ndarray | None


@dataclass(frozen=True)
class Clustering:
    """One clustering of images.

    Args:
        clustering_id: Its name.
        params: What made it.
        img_ids: `[n]` int64.
        labels: `[n]` int64, -1 for noise.
        prob: `[n]` float64, NaN where unknown; likewise silhouette.
        medoid: `[n]` bool, whether the image stands for its cluster.
        silhouette: `[n]` float64.
    """

    clustering_id: str
    params: Mapping[str, Any]
    img_ids: np.ndarray
    labels: np.ndarray
    prob: np.ndarray
    medoid: np.ndarray
    silhouette: np.ndarray


@dataclass(frozen=True)
class Projection:
    """One map of images: `img_ids` `[n]` int64, `coords` `[n, d]` float64, d at least 2."""

    projection_id: str
    params: Mapping[str, Any]
    img_ids: np.ndarray
    coords: np.ndarray


def save_clustering(
    run: RunStore,
    clustering_id: str,
    params: Mapping[str, object],
    img_ids: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    prob: Values = None,
    medoid: Sequence[bool] | np.ndarray | None = None,
    silhouette: Values = None,
) -> None:
    """Save a clustering; one of the same name is replaced.

    Args:
        run: Where.
        clustering_id: Its name.
        params: JSON values that made it.
        img_ids: `[n]`.
        labels: `[n]`, -1 for noise.
        prob: `[n]` membership; None or NaN where unknown; likewise silhouette.
        medoid: `[n]`, whether the image stands for its cluster.
        silhouette: `[n]`.
    """
    count = len(img_ids)
    stands = [None] * count if medoid is None else [int(bool(value)) for value in medoid]
    ends = (_numbers(prob, count), stands, _numbers(silhouette, count))
    rows = zip([clustering_id] * count, map(int, img_ids), map(int, labels), *ends, strict=True)
    with run.transaction() as db:
        db.execute("DELETE FROM assignments WHERE clustering_id = ?", (clustering_id,))
        db.execute("DELETE FROM clusterings WHERE clustering_id = ?", (clustering_id,))
        add = "INSERT INTO clusterings (clustering_id, params, created_ts) VALUES (?, ?, ?)"
        db.execute(add, (clustering_id, canonical_json(dict(params)), time.time()))
        db.executemany(
            "INSERT INTO assignments (clustering_id, img_id, label, prob, medoid, silhouette) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            list(rows),
        )


def save_projection(
    run: RunStore,
    projection_id: str,
    params: Mapping[str, object],
    img_ids: Sequence[int] | np.ndarray,
    coords: np.ndarray,
) -> None:
    """Save a map; one of the same name is replaced.

    Args:
        run: Where.
        projection_id: Its name.
        params: JSON values that made it.
        img_ids: `[n]`.
        coords: `[n, d]`, d at least 2; x and y are the first two, beyond them `vector` has all.
    """
    coords = np.asarray(coords, np.float64)
    if coords.ndim != 2 or coords.shape[1] < 2:
        raise InputError(f"projection {projection_id!r}: expected [n, 2 or more] coordinates")
    wide = coords.shape[1] > 2
    rows = [
        (
            projection_id,
            int(i),
            float(c[0]),
            float(c[1]),
            c.astype("<f4").tobytes() if wide else None,
        )
        for i, c in zip(img_ids, coords, strict=True)
    ]
    with run.transaction() as db:
        db.execute("DELETE FROM coordinates WHERE projection_id = ?", (projection_id,))
        db.execute("DELETE FROM projections WHERE projection_id = ?", (projection_id,))
        add = "INSERT INTO projections (projection_id, params, created_ts) VALUES (?, ?, ?)"
        db.execute(add, (projection_id, canonical_json(dict(params)), time.time()))
        db.executemany(
            "INSERT INTO coordinates (projection_id, img_id, x, y, vector) VALUES (?, ?, ?, ?, ?)",
            rows,
        )


def save_evaluation(
    run: RunStore, evaluation_id: str, params: Mapping[str, object], scores: Mapping[str, object]
) -> None:
    """Save an evaluation's scores (JSON values); one of the same name is replaced."""
    with run.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO evaluations (evaluation_id, params, scores, created_ts) "
            "VALUES (?, ?, ?, ?)",
            (
                evaluation_id,
                canonical_json(dict(params)),
                canonical_json(dict(scores)),
                time.time(),
            ),
        )


def clusterings(run: RunStore) -> list[Clustering]:
    """Return all clusterings, oldest first."""
    query = "SELECT clustering_id FROM clusterings ORDER BY created_ts, clustering_id"
    with disk_errors(run.path):
        return [clustering(run, name) for (name,) in run.db.execute(query).fetchall()]


def clustering(run: RunStore, clustering_id: str) -> Clustering:
    """Return one clustering.

    Raises:
        InputError: There is none of this name.
    """
    params = _params(run, "clusterings", "clustering_id", clustering_id)
    query = (
        "SELECT img_id, label, prob, medoid, silhouette FROM assignments "
        "WHERE clustering_id = ? ORDER BY img_id"
    )
    with disk_errors(run.path):
        rows = run.db.execute(query, (clustering_id,)).fetchall()
    ids, found, prob, medoid, silhouette = zip(*rows, strict=True) if rows else ((),) * 5
    return Clustering(
        clustering_id,
        params,
        np.array(ids, np.int64),
        np.array(found, np.int64),
        np.array(prob, np.float64),
        np.array([bool(value) for value in medoid], np.bool_),
        np.array(silhouette, np.float64),
    )


def projections(run: RunStore) -> list[Projection]:
    """Return all maps, oldest first."""
    query = "SELECT projection_id FROM projections ORDER BY created_ts, projection_id"
    with disk_errors(run.path):
        return [projection(run, name) for (name,) in run.db.execute(query).fetchall()]


def projection(run: RunStore, projection_id: str) -> Projection:
    """Return one map.

    Raises:
        InputError: There is none of this name.
    """
    params = _params(run, "projections", "projection_id", projection_id)
    query = "SELECT img_id, x, y, vector FROM coordinates WHERE projection_id = ? ORDER BY img_id"
    with disk_errors(run.path):
        rows = run.db.execute(query, (projection_id,)).fetchall()
    coords = [(x, y) if v is None else np.frombuffer(v, "<f4") for _, x, y, v in rows]
    ids = np.array([row[0] for row in rows], np.int64)
    return Projection(
        projection_id, params, ids, np.array(coords, np.float64).reshape(len(ids), -1)
    )


def evaluations(run: RunStore) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return name, params and scores of all evaluations, oldest first."""
    query = "SELECT evaluation_id, params, scores FROM evaluations ORDER BY created_ts, 1"
    with disk_errors(run.path):
        return [(name, json.loads(p), json.loads(s)) for name, p, s in run.db.execute(query)]


def _params(run: RunStore, table: str, key: str, name: str) -> dict[str, Any]:
    """Return a result's params; table and key are this module's own words."""
    with disk_errors(run.path):
        row = run.db.execute(f"SELECT params FROM {table} WHERE {key} = ?", (name,)).fetchone()
        known = [k for (k,) in run.db.execute(f"SELECT {key} FROM {table} ORDER BY created_ts")]
    if row is None:
        there = ", ".join(known) or "none"
        raise InputError(f"{run.path}: no {table[:-1]} {name!r}", hint=f"there are: {there}")
    return json.loads(row[0])


def _numbers(values: Values, count: int) -> list[float | None]:
    given = [None] * count if values is None else list(values)
    return [None if value is None or np.isnan(value) else float(value) for value in given]
