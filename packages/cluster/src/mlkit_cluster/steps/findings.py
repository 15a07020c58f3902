"""`findings` and `coverage`: what a person should look at first."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.analysis import findings as kinds
from mlkit_cluster.analysis.combine import symmetrise
from mlkit_cluster.analysis.graphs import NeighborGraph
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_cluster.steps.inputs import LOSS, View, see, total_losses
from mlkit_cluster.store import reading
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlkit_cluster.store.database import RunStore

    Rows = list[dict[str, object]]


def contradictions(run: RunStore, view: View, top: int) -> Rows:
    """Return pairs alike to the detector's embedding and unlike by its loss."""
    total, kept = total_losses(run, view)
    ids, vectors = reading.embedding_matrix(run)
    found = kinds.contradictions(vectors[kept], total, top=top)
    return _pairs(run, ids[kept], found)


def asymmetry(run: RunStore, view: View, top: int) -> Rows:
    """Return pairs of which one image's output explains the other far worse than in reverse."""
    total, kept = total_losses(run, view)
    ids = reading.embedding_matrix(run)[0][kept]
    return _pairs(run, ids, kinds.asymmetry(total, top=top).pairs)


def duplicates(run: RunStore, view: View, top: int) -> Rows:
    """Return images that are there twice: the same bytes, then almost the same embedding."""
    source = "yolo" if view.source == LOSS else view.source
    ids, vectors = reading.embedding_matrix(run, source)
    rows = {image.img_id: image for image in reading.images(run)}
    found = kinds.near_duplicates([rows[int(i)].sha for i in ids], vectors)
    exact = [
        {"kind": "same bytes", "cosine": 1.0, "paths": [rows[int(ids[i])].path for i in group]}
        for group in found.exact
    ]
    near = [
        {
            "kind": "near",
            "cosine": pair.cosine,
            "paths": [rows[int(ids[i])].path for i in (pair.image, pair.other)],
        }
        for pair in found.near
    ]
    return [*exact, *near][:top]


def hard(run: RunStore, view: View, top: int) -> Rows:
    """Return the images of the largest weighted loss against their own labels."""
    del view
    scores, gains = reading.scores(run), run.gains()
    losses = {name: scores[f"{name}_loss"] for name in gains}
    known = {name: values for name, values in losses.items() if not np.isnan(values).all()}
    if not known:
        raise InputError(f"{run.path}: no labels are known, so no image is hard or easy")
    # An image without objects has no box, dfl and seg loss; what it has is counted.
    total = sum(gains[name] * np.nan_to_num(values) for name, values in known.items())
    total = np.where(np.isnan(known["cls"]), -np.inf, total)
    order = np.argsort(-total, kind="stable")[:top]
    paths = [image.path for image in reading.images(run)]
    return [
        {
            "path": paths[place],
            "total": float(total[place]),
            **{name: _number(values[place]) for name, values in known.items()},
            "n_gt": _number(scores["n_gt"][place]),
            "hit_freq": _number(scores["hit_freq"][place]),
        }
        for place in order.tolist()
        if np.isfinite(total[place])
    ]


def labels(run: RunStore, view: View, top: int) -> Rows:
    """Return labels that the detector contradicts with confidence."""
    del view
    images = reading.images(run)
    predicted = [reading.predictions(run, image.img_id) for image in images]
    known = [reading.labels(run, image.img_id) for image in images]
    places = [place for place, truth in enumerate(known) if truth is not None]
    if not places:
        raise InputError(f"{run.path}: no labels are known")
    found = kinds.suspicious_labels(_boxes(predicted), _boxes(known), places)
    names = _names(run)
    return [
        {
            "kind": one.kind,
            "path": images[one.image].path,
            "label": None if one.label is None else names[one.label],
            "predicted": None if one.predicted is None else names[one.predicted],
            "score": one.score,
            "formula": one.formula,
            "iou": one.iou,
            "box": [round(value, 1) for value in one.box_xyxy],
        }
        for one in found[:top]
    ]


KINDS: dict[str, Callable[[Any, View, int], Any]] = {
    "contradictions": contradictions,
    "asymmetry": asymmetry,
    "duplicates": duplicates,
    "hard": hard,
    "labels": labels,
}


def coverage(run: RunStore, view: View, count: int, how: str) -> Rows:
    """Return a small subset that stands for all images, in the order of choice.

    Args:
        run: Whose.
        view: How images are compared.
        count: How many.
        how: "typical" (greedy facility location) or "spread" (greedy k-center).
    """
    seen = see(run, view)
    if isinstance(seen.distance, NeighborGraph):
        raise InputError(
            f"{run.path}: holds edges only, and a subset needs all pairs",
            hint="choose by embeddings, as --on yolo",
        )
    distance = seen.distance
    if distance is None:
        assert seen.embeddings is not None  # a view has either
        distance = symmetrise(pair_distances(seen.embeddings, "cosine"))
    if how == "typical":
        found = kinds.greedy_facility_location(distance, count)
    else:
        found = kinds.greedy_k_center(distance, count)
    paths = {image.img_id: image.path for image in reading.images(run)}
    return [
        {"path": paths[int(seen.img_ids[image])], "covered": float(share), "radius": float(far)}
        for image, share, far in zip(found.images, found.covered, found.radius, strict=True)
    ]


def _pairs(run: RunStore, ids: np.ndarray, found: Sequence[Any]) -> Rows:
    paths = {image.img_id: image.path for image in reading.images(run)}
    rows: Rows = []
    for pair in found:
        values = asdict(pair)
        named = {
            "path": paths[int(ids[values.pop("image")])],
            "other": paths[int(ids[values.pop("other")])],
        }
        rows.append({**named, **values})
    return rows


def _boxes(found: Sequence[reading.Instances | None]) -> kinds.Boxes:
    present = [(place, one) for place, one in enumerate(found) if one is not None and len(one)]
    if not present:
        return kinds.Boxes(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.int64))
    scored = [one.scores for _, one in present if one.scores is not None]
    return kinds.Boxes(
        np.concatenate([np.full(len(one), place) for place, one in present]),
        np.concatenate([one.boxes for _, one in present]),
        np.concatenate([one.labels for _, one in present]),
        np.concatenate(scored) if scored else None,
    )


def _names(run: RunStore) -> list[str]:
    from mlkit_cluster.store.runs import class_names

    return class_names(run)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
