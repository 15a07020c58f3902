"""`cluster`, `project`, `evaluate`: results that are saved in the run, each under its own name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.analysis.clusters import cluster as find_clusters
from mlkit_cluster.analysis.evaluation import external_scores
from mlkit_cluster.analysis.graphs import NeighborGraph
from mlkit_cluster.analysis.identity import settings_id
from mlkit_cluster.analysis.internal import internal_scores
from mlkit_cluster.analysis.knn_protocol import KS, knn_scores
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_cluster.analysis.neighbors import MANY_IMAGES
from mlkit_cluster.analysis.projections import project as find_coordinates
from mlkit_cluster.steps.inputs import LOSS, View, see, total_losses
from mlkit_cluster.store import reading, results
from mlkit_cluster.store.entries import matrix_ids
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_cluster.analysis.clusters import Param
    from mlkit_cluster.store.database import RunStore

FLAGS = ("flag_cat", "flag_supercat")
VALUES = ("hit_freq", "mean_iou", "box_loss", "cls_loss", "dfl_loss", "seg_loss")


def cluster(
    run: RunStore,
    method: str,
    view: View,
    *,
    name: str | None = None,
    seed: int = 0,
    params: Mapping[str, Param] | None = None,
) -> dict[str, object]:
    """Group images, and save the clustering.

    Returns:
        Its name, the sizes, the mean silhouette, and notes that a reader must know.
    """
    seen = see(run, view)
    found = find_clusters(method, **seen.input, seed=seed, **dict(params or {}))
    said = {**found.params, **view.said}
    label = name or f"{method}-{view.source.replace(':', '-')}-{settings_id(method, said)}"
    stands = np.zeros(len(seen.img_ids), bool)
    stands[list(found.medoids.values())] = True
    results.save_clustering(
        run,
        label,
        {**said, "notes": list(found.notes)},
        seen.img_ids,
        found.labels,
        prob=found.probabilities,
        medoid=stands,
        silhouette=found.silhouettes,
    )
    sizes = np.bincount(found.labels[found.labels >= 0]).tolist()
    known = found.silhouettes[np.isfinite(found.silhouettes)]
    return {
        "clustering": label,
        "images": len(seen.img_ids),
        "clusters": len(sizes),
        "noise": int((found.labels < 0).sum()),
        "sizes": sizes,
        "silhouette": float(known.mean()) if len(known) else None,
        "notes": list(found.notes),
    }


def project(
    run: RunStore,
    model: str,
    view: View,
    *,
    name: str | None = None,
    seed: int = 0,
    params: Mapping[str, Param] | None = None,
) -> dict[str, object]:
    """Map images to few dimensions, and save the coordinates.

    Raises:
        InputError: The run holds edges only, which are no map's input.
    """
    seen = see(run, view)
    if isinstance(seen.distance, NeighborGraph):
        raise InputError(
            f"{run.path}: holds edges only, and a map needs all pairs",
            hint="project embeddings, as --on yolo",
        )
    found = find_coordinates(model, **seen.input, seed=seed, source=view.said, **dict(params or {}))
    label = name or f"{model}-{view.source.replace(':', '-')}-{found.identity}"
    results.save_projection(
        run, label, {"model": model, **found.params}, seen.img_ids, found.coordinates
    )
    return {"projection": label, "images": len(seen.img_ids), "dims": found.coordinates.shape[1]}


def evaluate(
    run: RunStore, *, permutations: int = 200, seed: int = 0, neighbours: bool = True
) -> list[dict[str, object]]:
    """Score every clustering against classes, beside baselines, and what neighbours tell.

    Returns:
        One row for each clustering and flag, then one for each view, target and k.
    """
    rows: list[dict[str, object]] = []
    scores = reading.scores(run)
    for found in results.clusterings(run):
        rows += [
            {"clustering": found.clustering_id, **row}
            for row in _clustering_rows(run, found, scores, permutations, seed)
        ]
    if neighbours:
        for source in (*reading.encoders(run), LOSS):
            rows += _neighbour_rows(run, source, scores)
    return rows


def _clustering_rows(
    run: RunStore,
    found: results.Clustering,
    scores: Mapping[str, np.ndarray],
    permutations: int,
    seed: int,
) -> list[dict[str, object]]:
    places = np.searchsorted(scores["img_id"], found.img_ids)
    labels, rows = np.asarray(found.labels), []
    inside = _internal(run, found)
    for flag in FLAGS:
        classes = scores[flag][places]
        if np.isnan(classes).all():
            continue
        numbers = np.where(np.isnan(classes), -1, classes).astype(np.int64)
        said = external_scores(labels, numbers, permutations=permutations, seed=seed)
        record = {"against": flag, **said, "internal": inside}
        results.save_evaluation(
            run,
            f"{found.clustering_id}/{flag}",
            {"clustering": found.clustering_id, "against": flag, "permutations": permutations},
            _plain(record),
        )
        rows.append(record)
    if not rows:
        rows.append({"against": "no classes are known", "internal": inside})
    return rows


def _internal(run: RunStore, found: results.Clustering) -> dict[str, object]:
    """Return scores of the clustering in the distance that it was made from."""
    view = _view_of(found.params)
    if len(found.img_ids) > MANY_IMAGES:
        return {}
    seen = see(run, view)
    if isinstance(seen.distance, NeighborGraph) or len(seen.img_ids) != len(found.img_ids):
        return {}
    distance = seen.distance
    if distance is None:
        assert seen.embeddings is not None  # a view has either
        metric = str(found.params.get("metric", "euclidean"))
        distance = pair_distances(seen.embeddings, metric)
    return internal_scores(distance, np.asarray(found.labels))


def _view_of(params: Mapping[str, Any]) -> View:
    known = {key: params[key] for key in ("source", "weights", "symmetry") if key in params}
    return View(**known, **({"unknown": params["unknown"]} if "unknown" in params else {}))


def _neighbour_rows(
    run: RunStore, source: str, scores: Mapping[str, np.ndarray]
) -> list[dict[str, object]]:
    matrix, ids = _matrix(run, source)
    if matrix is None:
        return []
    places = np.searchsorted(scores["img_id"], ids)
    rows: list[dict[str, object]] = []
    for target in (*FLAGS, *VALUES):
        values = scores[target][places]
        known = np.isfinite(values) & ((values >= 0) if target in FLAGS else True)
        if known.sum() < 20 or np.ptp(values[known]) == 0:
            continue
        chosen = matrix[np.ix_(known, known)] if source == LOSS else matrix[known]
        task = "classification" if target in FLAGS else "regression"
        wanted = values[known].astype(np.int64) if target in FLAGS else values[known]
        fits = [k for k in KS if k < int(known.sum() * 0.9) - 1]
        found = knn_scores(chosen, wanted, precomputed=source == LOSS, task=task, ks=fits)
        rows += [{"neighbours by": source, "target": target, **row} for row in found]
    about = {"neighbours by": source, "protocol": "10-fold k nearest neighbours"}
    if rows:
        results.save_evaluation(run, f"neighbours/{source}", about, {"rows": _plain(rows)})
    return rows


def _matrix(run: RunStore, source: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Return what neighbours are sought in: losses as they are, row by row, or embeddings."""
    if source != LOSS:
        ids, vectors = reading.embedding_matrix(run, source)
        return vectors, ids
    ids = np.asarray(matrix_ids(run), np.int64)
    known = run.metadata()
    if known.get("distance_mode") != "full" or "distances_table" not in known:
        return None, ids
    total, kept = total_losses(run, View())
    return total, ids[kept]


def _plain(value: Any) -> Any:  # noqa: ANN401  # plain values, nested
    """Return JSON's own types; NaN, which it lacks, becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
