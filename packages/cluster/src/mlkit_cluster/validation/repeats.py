"""Checks that run the model again: some images extracted anew, some pairs computed anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlkit_cluster.store import reading
from mlkit_cluster.store.blobs import unpack_features
from mlkit_cluster.validation.findings import Finding, sample, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlkit_cluster.validation.distances import DistanceView
    from mlkit_cluster.validation.view import RunView
    from mlkit_core.types import ImageRecord

_ATOL = 1e-4
_RTOL = 1e-4
_BOX_PX = 1e-2


class Reextract(Protocol):
    """Extracts images again by the run's own settings."""

    def __call__(self, paths: Sequence[str]) -> Iterable[ImageRecord]:  # pyright: ignore[reportReturnType]  # a protocol's body
        """Return a record for each path, as registered, in order."""


class Recompute(Protocol):
    """Computes pairs again by the installed library's own criterion."""

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> Mapping[str, np.ndarray]:  # pyright: ignore[reportReturnType]  # a protocol's body
        """Return component to `[P]` of the pairs (rows[p], columns[p]), indices of the matrix."""


def check_images_again(view: RunView, count: int, reextract: Reextract) -> Finding:
    """Extract random images again and compare all that is stored of them."""
    every = reading.images(view.run)
    chosen = [every[place] for place in sample(len(every), count, view.seed)]

    def problems() -> Iterator[str]:
        records = reextract([image.path for image in chosen])
        for image, record in zip(chosen, records, strict=True):
            for problem in _image_problems(view, image.img_id, record.values):
                yield f"image {image.img_id}: {problem}"

    return verdict("images again", problems(), f"{len(chosen)} images extracted again agree")


def _image_problems(view: RunView, img_id: int, values: Mapping[str, Any]) -> Iterator[str]:
    row = view.records(
        "SELECT e.*, i.sha, f.gap_features, f.bottleneck_features FROM images i "
        "JOIN embeddings e USING (img_id) "
        "JOIN features f USING (img_id) WHERE img_id = ? AND encoder = 'yolo'",
        (img_id,),
    )[0]
    if row["sha"] != values["sha"]:
        yield "the file has changed since it was extracted"
        return
    if not _alike(np.frombuffer(row["embedding"], "<f4"), values["embedding"]):
        yield "another embedding"
    levels = unpack_features(row["gap_features"])
    if any(not _alike(levels.get(name, np.zeros(0)), v) for name, v in values["gap"].items()):
        yield "other gap_features"
    for name, value in (values.get("losses") or {}).items():
        if not _alike(_number(row[f"{name}_loss"]), _number(value)):
            yield f"{name}_loss is {row[f'{name}_loss']!r}, now {value!r}"
    yield from _detection_problems(view, img_id, values["detections"])


def _detection_problems(view: RunView, img_id: int, found: Any) -> Iterator[str]:  # noqa: ANN401  # detections
    stored = reading.predictions(view.run, img_id)
    # At the threshold itself the last bit decides whether a detection is there.
    least = ((view.detector or {}).get("conf") or 0.0) + 1e-3
    old = stored.scores > least if stored.scores is not None else np.zeros(0, bool)
    new = np.asarray(found.scores) > least
    if old.sum() != new.sum():
        yield f"{int(old.sum())} detections, now {int(new.sum())}"
        return
    boxes = np.abs(stored.boxes[old] - np.asarray(found.boxes)[new])
    if boxes.size and boxes.max() > _BOX_PX:
        yield f"boxes differ by up to {boxes.max():.3g} px"
    if (stored.labels[old] != np.asarray(found.labels)[new]).any():
        yield "detections of other classes"
    if stored.scores is not None and not _alike(stored.scores[old], np.asarray(found.scores)[new]):
        yield "other confidences"


def _alike(old: np.ndarray | float, new: np.ndarray | float) -> bool:
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    return old.shape == new.shape and np.allclose(old, new, rtol=_RTOL, atol=_ATOL, equal_nan=True)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def check_pairs_again(found: DistanceView, count: int, recompute: Recompute) -> Finding:
    """Compute random pairs again, each in a row of its own while rows last."""
    rows, columns, stored = _pairs(found, count)

    def problems() -> Iterator[str]:
        made = recompute(rows, columns)
        for name in found.components:
            for row, column, old, new in zip(rows, columns, stored[name], made[name], strict=True):
                both = np.isnan(old) and np.isnan(new)
                if not both and not abs(old - new) <= _RTOL * max(1.0, abs(new)):
                    yield f"{name} of rows {row}, {column} is {old:.6g}, now {new:.6g}"

    return verdict("pairs again", problems(), f"{len(rows)} pairs computed again agree")


def _pairs(found: DistanceView, count: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return rows, columns and stored distances of random pairs; columns with targets mostly."""
    run, n = found.view.run, found.expected.n
    generator = np.random.default_rng(found.view.seed)
    rows = np.resize(generator.permutation(n), min(count, n * n)).astype(np.int64)
    if found.expected.kind == "edges":
        edges = run.open_edges()
        rows = np.array([row for row in rows if (edges.columns[int(row)] >= 0).any()], np.int64)
        columns = np.array(
            [generator.choice(edges.columns[int(r)][edges.columns[int(r)] >= 0]) for r in rows],
            np.int64,
        )
        pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
        stored = {c: [_number(edges.value(c, i, j)) for i, j in pairs] for c in found.components}
    else:
        columns = generator.integers(0, max(n, 1), len(rows))
        pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
        parts = {name: run.open_matrix(name) for name in found.components}
        stored = {name: [part.value(i, j) for i, j in pairs] for name, part in parts.items()}
    return rows, columns, {name: np.array(values) for name, values in stored.items()}
