"""Writing what extraction found: all rows of a batch of images, or none."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.store.blobs import pack_features
from mlkit_cluster.store.checks import PARTS, write_checks
from mlkit_cluster.store.files import text_bytes
from mlkit_cluster.store.maps import write_maps
from mlkit_cluster.store.runs import class_names
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from mlkit_cluster.store.database import RunStore
    from mlkit_core.types import ImageRecord

    Found = Sequence[tuple[int, Mapping[str, Any]]]

_FLOATS = ("hit_freq", "mean_iou", "mean_conf", "mean_conf_matched", "precision", "dice_score")
_COUNTS = ("n_gt", "n_pred", "n_match", "flag_cat", "flag_supercat")
_LOSSES = ("box", "cls", "dfl", "seg")
_CORNERS = ("x1", "y1", "x2", "y2")


def write_records(run: RunStore, records: Sequence[ImageRecord], *, full_maps: bool = False) -> int:
    """Write a batch of images in one transaction; those already written are left as they are.

    Args:
        run: Where; `begin_run` of the detector has been called.
        records: `key` is the image's path as registered.
        full_maps: Whether feature maps go to side files, not into the row.

    Returns:
        How many images were written.

    Raises:
        InputError: A label's class is unknown to the model.
        MlkitError: No run has begun, a path is not registered, or the disk is full.
    """
    with run.transaction() as db:
        row = db.execute("SELECT fingerprint FROM runs WHERE kind = 'yolo'").fetchone()
        if row is None:
            raise MlkitError(f"{run.path}: no run has begun: settings are not noted")
        found = _new(db, records)
        ids = [img_id for img_id, _ in found]
        if not ids:
            return 0
        _write_images(db, found)
        _write_metrics(db, found, row[0])
        _write_features(db, found, _map_blobs(run, db, found, full_maps=full_maps))
        _write_instances(db, found, class_names(run))
        write_checks(db, ids, PARTS)
    return len(ids)


def _new(db: sqlite3.Connection, records: Sequence[ImageRecord]) -> Found:
    """Return id and values of the records that have no rows yet."""
    query = (
        "SELECT i.img_id, e.id FROM images i LEFT JOIN embeddings e "
        "ON e.img_id = i.img_id AND e.encoder = 'yolo' WHERE i.path = CAST(? AS TEXT)"
    )
    found: dict[int, Mapping[str, Any]] = {}
    for record in records:
        row = db.execute(query, (text_bytes(record.key),)).fetchone()
        if row is None:
            raise MlkitError(f"image {record.key!r}: not registered in this run")
        if row[1] is None:
            found.setdefault(row[0], record.values)
    return list(found.items())


def _write_images(db: sqlite3.Connection, found: Found) -> None:
    rows = []
    for img_id, values in found:
        size, pad = (values["width"], values["height"]), (values["pad_x"], values["pad_y"])
        row = (values["sha"], *map(_int, size), _float(values["ratio"]), *map(_int, pad))
        rows.append((*row, img_id))
    db.executemany(
        "UPDATE images SET sha = ?, w = ?, h = ?, ratio = ?, pad_x = ?, pad_y = ?, error = NULL "
        "WHERE img_id = ?",
        rows,
    )


def _write_metrics(db: sqlite3.Connection, found: Found, fingerprint: str) -> None:
    rows = []
    for img_id, values in found:
        metrics, losses = values.get("metrics") or {}, values.get("losses") or {}
        row: dict[str, object] = {"img_id": img_id, "embedding": _f4(values["embedding"])}
        row |= {name: _float(metrics.get(name)) for name in _FLOATS}
        row |= {name: _int(metrics.get(name)) for name in _COUNTS}
        row |= {f"{name}_loss": _float(losses.get(name)) for name in _LOSSES}
        row |= {"n_pos": _int(values.get("n_pos")), "score_sum": _float(values.get("score_sum"))}
        rows.append(row | {"encoder": "yolo", "fingerprint": fingerprint})
    _insert(db, "embeddings", rows)


def _map_blobs(
    run: RunStore, db: sqlite3.Connection, found: Found, *, full_maps: bool
) -> list[bytes | None]:
    """Return the blob of each image's feature maps, None without; side files come first."""
    maps = [values.get("maps") for _, values in found]
    given = [levels for levels in maps if levels]
    if not full_maps:
        return [pack_features(levels, "<f2") if levels else None for levels in maps]
    row = db.execute("SELECT value FROM metadata WHERE key = 'map_slots'").fetchone()
    slot = int(row[0]) if row else 0
    blobs = iter(write_maps(run.folder, slot, given))
    db.execute("INSERT OR REPLACE INTO metadata VALUES ('map_slots', ?)", (str(slot + len(given)),))
    return [next(blobs) if levels else None for levels in maps]


def _write_features(
    db: sqlite3.Connection, found: Found, map_blobs: Sequence[bytes | None]
) -> None:
    now = time.time()
    rows = [
        {
            "img_id": img_id,
            "gap_features": pack_features(values["gap"]),
            "bottleneck_features": blob,
            "created_ts": now,
        }
        for (img_id, values), blob in zip(found, map_blobs, strict=True)
    ]
    _insert(db, "features", rows)


def _write_instances(db: sqlite3.Connection, found: Found, names: Sequence[str]) -> None:
    now = time.time()
    for img_id, values in found:
        given = {"pred": values["detections"], "gt": values.get("labels")}
        for source, instances in given.items():
            if instances is None:
                continue
            rows = _instance_rows(img_id, instances, names)
            if source == "pred":
                scores = (float(score) for score in instances.scores)
                rows = [
                    row | {"confidence": score, "created_ts": now}
                    for row, score in zip(rows, scores, strict=True)
                ]
            _insert(db, "predictions" if source == "pred" else "labels", rows)
            db.executemany(
                "INSERT INTO image_classes (img_id, source, class_id, n) VALUES (?, ?, ?, ?)",
                [(img_id, source, c, n) for c, n in sorted(_counts(instances).items())],
            )


def _counts(instances: Any) -> Counter[int]:  # noqa: ANN401  # detections or labels
    return Counter(int(label) for label in instances.labels)


def _instance_rows(
    img_id: int,
    instances: Any,  # noqa: ANN401  # detections or labels
    names: Sequence[str],
) -> list[dict[str, object]]:
    """Return the columns that predictions and labels share, one row for each instance."""
    masks = instances.masks if instances.masks is not None else [None] * len(instances.labels)
    rows: list[dict[str, object]] = []
    for box, inner, label, mask in zip(
        instances.boxes, instances.boxes_input, instances.labels, masks, strict=True
    ):
        if not 0 <= label < len(names):
            raise InputError(
                f"image {img_id}: class {int(label)}: the model knows 0 to {len(names) - 1}",
                hint="give labels of the model's own classes",
            )
        row = {f"box_{corner}": float(v) for corner, v in zip(_CORNERS, box, strict=True)}
        row |= {f"input_{corner}": float(v) for corner, v in zip(_CORNERS, inner, strict=True)}
        named = {"class_id": int(label), "class_name": names[int(label)], "mask": mask}
        rows.append({"img_id": img_id, **row, **named})
    return rows


def write_embeddings(
    run: RunStore, encoder: str, fingerprint: str, img_ids: Sequence[int], embeddings: np.ndarray
) -> int:
    """Write rows of another encoder: metrics and losses stay NULL, no other table is touched.

    Args:
        run: Where; `begin_run` of this encoder has been called.
        encoder: Any name but the detector's.
        fingerprint: As `begin_run` returned it.
        img_ids: Of the images; those that have a row already are left as they are.
        embeddings: `[n, D]`, stored as float32.

    Returns:
        How many rows are new.

    Raises:
        InputError: The encoder's settings are not those noted.
    """
    if encoder == "yolo":
        raise InputError("encoder 'yolo': the name is the detector's own")
    add = (
        "INSERT INTO embeddings (img_id, embedding, encoder, fingerprint) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (img_id, encoder) DO NOTHING"
    )
    with run.transaction() as db:
        row = db.execute("SELECT fingerprint FROM runs WHERE encoder = ?", (encoder,)).fetchone()
        if row is None or row[0] != fingerprint:
            raise InputError(f"{run.path}: encoder {encoder!r}: other settings than those noted")
        count = 0
        for img_id, values in zip(img_ids, embeddings, strict=True):
            new = db.execute(add, (int(img_id), _f4(values), encoder, fingerprint)).rowcount
            count += new
            if new:
                write_checks(db, [int(img_id)], [f"embedding:{encoder}"])
    return count


def write_failure(run: RunStore, img_id: int, error: str) -> None:
    """Note why an image gave no record.

    Raises:
        MlkitError: The image is unknown or has rows already.
    """
    with run.transaction() as db:
        done = db.execute(
            "UPDATE images SET error = ? WHERE img_id = ? AND img_id NOT IN "
            "(SELECT img_id FROM features)",
            (error, img_id),
        ).rowcount
        if not done:
            raise MlkitError(f"image {img_id}: not registered, or extracted already")


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows of the same columns; table and columns are this module's own words."""
    if rows:
        columns = list(rows[0])
        marks = ", ".join("?" * len(columns))
        query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        db.executemany(query, [tuple(row.values()) for row in rows])


def _float(value: Any) -> float | None:  # noqa: ANN401  # any number
    """Return a number, or None (NULL) for what is unknown: None and NaN."""
    return None if value is None or math.isnan(value) else float(value)


def _int(value: Any) -> int | None:  # noqa: ANN401  # any number
    return None if value is None else int(value)


def _f4(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
