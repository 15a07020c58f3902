"""Checks of embeddings and features: lengths, finite numbers, and that they belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.blobs import unpack_features
from mlkit_cluster.validation.findings import Finding, verdict
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlkit_cluster.validation.view import RunView

_STRIDES = {"p3": 8, "p4": 16, "p5": 32}


def check_embeddings(view: RunView) -> Finding:
    """Embeddings of an encoder have one length, are finite, not 0, and differ between images."""

    def problems() -> Iterator[str]:
        for (encoder,) in view.rows("SELECT DISTINCT encoder FROM embeddings ORDER BY 1"):
            yield from _embedding_problems(view, encoder)

    (count,) = view.rows("SELECT COUNT(*) FROM embeddings")[0]
    return verdict("embeddings", problems(), f"{count} embeddings, finite, one length each encoder")


def _embedding_problems(view: RunView, encoder: str) -> Iterator[str]:
    query = (
        "SELECT e.img_id, e.embedding, COALESCE(i.sha, i.path) FROM embeddings e "
        "JOIN images i USING (img_id) WHERE encoder = ? ORDER BY 1"
    )
    length, blobs, files = None, set(), set()
    for img_id, blob, file in view.run.db.execute(query, (encoder,)):
        if not isinstance(blob, bytes) or not blob or len(blob) % 4:
            yield f"{encoder}: image {img_id}: not a blob of f4 numbers"
            continue
        length = length or len(blob)
        values = np.frombuffer(blob, "<f4")
        if len(blob) != length:
            yield f"{encoder}: image {img_id}: {len(blob)} bytes, others have {length}"
        elif not np.isfinite(values).all():
            yield f"{encoder}: image {img_id}: not finite"
        elif not values.any():
            yield f"{encoder}: image {img_id}: all 0"
        blobs.add(blob)
        files.add(file)
    if len(files) >= 3 and len(blobs) == 1:
        yield f"{encoder}: {len(files)} different images have one embedding"


def check_features(view: RunView) -> Finding:
    """Features are finite, make up the embedding, and are the means of their maps."""
    size = (view.detector or {}).get("imgsz") or 0

    def problems() -> Iterator[str]:
        query = (
            "SELECT f.img_id, f.gap_features, f.bottleneck_features, e.embedding FROM features f "
            "LEFT JOIN embeddings e ON e.img_id = f.img_id AND e.encoder = 'yolo' ORDER BY 1"
        )
        for img_id, gap, maps, embedding in view.run.db.execute(query):
            try:
                levels = unpack_features(gap)
                found = unpack_features(maps, view.run.folder) if maps is not None else {}
            except MlkitError as err:
                yield f"image {img_id}: {err}"
                continue
            for problem in _feature_problems(levels, found, embedding, size):
                yield f"image {img_id}: {problem}"

    (count,) = view.rows("SELECT COUNT(*) FROM features")[0]
    return verdict("features", problems(), f"{count} rows agree with embeddings and maps")


def _feature_problems(
    levels: Mapping[str, np.ndarray],
    maps: Mapping[str, np.ndarray],
    embedding: bytes | None,
    size: int,
) -> Iterator[str]:
    joined = np.concatenate([values.ravel() for values in levels.values()]) if levels else None
    if joined is None or not np.isfinite(joined).all():
        yield "gap_features are empty or not finite"
    elif embedding is not None and joined.astype("<f4").tobytes() != embedding:
        yield "gap_features are not its embedding"
    for level, values in maps.items():
        if values.ndim != 3 or level not in levels or len(values) != len(levels[level]):
            yield f"map {level}: shape {values.shape} is no map of its channels"
        elif not np.isfinite(values).all():
            yield f"map {level}: not finite"
        elif _is_whole(values.shape, size // _STRIDES.get(level, 1)):
            wide = values.astype(np.float64)
            # Numbers are rounded to fp16, 11 bits.
            margin = 2e-3 * np.abs(wide).mean((1, 2)) + 1e-4
            if (np.abs(wide.mean((1, 2)) - levels[level]) > margin).any():
                yield f"map {level}: its means are not gap_features"


def _is_whole(shape: tuple[int, ...], side: int) -> bool:
    """Return whether a map's mean is the mean of all cells: a whole map, or even 4 x 4 fields."""
    return shape[1:] == (side, side) or (shape[1:] == (4, 4) and side % 4 == 0)


BLOB_CHECKS = (check_embeddings, check_features)
