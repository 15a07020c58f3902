"""Checks of `EMB.db`: embeddings, features, losses and predictions."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.validation.distances import SENTINEL
from mlkit_cluster.validation.findings import Finding, constant, replicated, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.seed_view import SeedView

LOSSES = ("box_loss", "cls_loss", "dfl_loss", "seg_loss")


def check_embedding_blobs(view: SeedView) -> Finding:
    """Embeddings have one length, are finite and differ between images."""

    def problems() -> Iterator[str]:
        lengths, blobs = set(), []
        for img_id, blob in view.emb.execute("SELECT img_id, embedding FROM embeddings"):
            values = _numbers(blob)
            if values is None or not values.size or not np.isfinite(values).all():
                yield f"image {img_id}: embedding is not a list of finite numbers"
                continue
            if not values.any():
                yield f"image {img_id}: embedding is all 0"
            lengths.add(values.size)
            blobs.append(bytes(blob) if isinstance(blob, bytes) else str(blob))
        if len(lengths) > 1:
            yield f"embeddings of several lengths: {sorted(lengths)}"
        if len(blobs) >= 3 and len(set(blobs)) == 1:
            yield f"{len(blobs)} images have one embedding"

    return verdict("embeddings", problems(), "finite, of one length, and different")


def _numbers(blob: object) -> np.ndarray | None:
    """Return an embedding, from JSON text or from f4 numbers."""
    if isinstance(blob, str) or (isinstance(blob, bytes) and blob[:1] == b"["):
        try:
            return np.asarray(json.loads(blob), np.float64).ravel()
        except ValueError:
            if isinstance(blob, str):
                return None
    if not isinstance(blob, bytes) or len(blob) % 4:
        return None
    return np.frombuffer(blob, "<f4")


def check_feature_json(view: SeedView) -> Finding:
    """Features are JSON, and maps are more than the means once more."""

    def problems() -> Iterator[str]:
        query = "SELECT img_id, gap_features, bottleneck_features FROM features ORDER BY 1"
        same = count = 0
        for img_id, gap, maps in view.emb.execute(query):
            try:
                means = _finite(json.loads(gap))
                levels = None if maps is None else _finite(json.loads(maps))
            except (ValueError, TypeError, UnicodeDecodeError) as err:
                yield f"image {img_id}: features are not JSON of finite numbers: {err}"
                continue
            count += 1
            same += levels is not None and levels == means
        if same:
            yield f"bottleneck_features are gap_features once more in {same} of {count} images"

    return verdict("features", problems(), "JSON, maps are not the means")


def _finite(value: Any) -> Any:  # noqa: ANN401  # JSON
    """Return nested lists as they are.

    Raises:
        ValueError: Empty, or a number is not finite.
    """
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not items:
        raise ValueError("empty, or no list")
    for item in items:
        if isinstance(item, (dict, list)):
            _finite(item)
        elif not isinstance(item, (int, float)) or not math.isfinite(item):
            raise ValueError(f"{item!r} is no finite number")
    return value


def check_losses(view: SeedView) -> Finding:
    """Losses are not 0 throughout, not one value, not a batch's value repeated, no sentinel."""
    held = view.columns(view.emb, "embeddings")
    names = [name for name in (*LOSSES, "mean_iou", "mean_conf") if name in held]
    query = f"SELECT embedding, {', '.join(names)} FROM embeddings ORDER BY img_id"
    rows = view.emb.execute(query).fetchall()
    inputs = [str(row[0]).encode() if isinstance(row[0], str) else row[0] for row in rows]

    def problems() -> Iterator[str]:
        for place, name in enumerate(names, 1):
            values = [row[place] for row in rows]
            if any(value is not None and not math.isfinite(value) for value in values):
                yield f"{name}: not finite"
            if any(value == SENTINEL for value in values):
                yield f"{name}: holds the sentinel {SENTINEL:.0f}"
            if said := constant(values, inputs):
                yield f"{name} is {said}"
            between = [None if value in (0, 1) else value for value in values]
            if (said := replicated(between, inputs)) is not None:
                yield f"{name} is repeated from one image to the next in {said[0]} of {said[1]}"

    return verdict("losses", problems(), f"{len(rows)} images, each with its own")


def check_predictions(view: SeedView) -> Finding:
    """Boxes have an extent, confidences are shares, classes have their names."""

    def problems() -> Iterator[str]:
        bad = (
            "SELECT COUNT(*) FROM predictions WHERE NOT (box_x1 < box_x2 AND box_y1 < box_y2 "
            "AND confidence > 0 AND confidence <= 1.000001 AND class_id >= 0)"
        )
        if (count := view.emb.execute(bad).fetchone()[0]) > 0:
            yield f"{count} rows with an empty box or an impossible confidence or class"
        made_up = (
            "SELECT DISTINCT class_name FROM predictions WHERE class_name = 'class_'||class_id"
        )
        yield from (f"class name {n!r} is a number" for (n,) in view.emb.execute(made_up))

    (count,) = view.emb.execute("SELECT COUNT(*) FROM predictions").fetchone()
    return verdict("predictions", problems(), f"{count} rows")


ROW_CHECKS = (check_embedding_blobs, check_feature_json, check_losses, check_predictions)
