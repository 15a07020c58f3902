"""Clusters of images, from a symmetrised loss distance, a graph of neighbours, or embeddings.

The loss distance is no metric: methods that compute means or need the triangle inequality are
refused for it. Noise has label -1; other labels go from the largest cluster (0) down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.graphs import NeighborGraph, affinities, embedding_graph, joined
from mlkit_cluster.analysis.identity import settings_id
from mlkit_cluster.analysis.internal import NOISE, structure
from mlkit_cluster.analysis.matrices import (
    embedding_rows,
    pair_distances,
    refuse_asymmetric,
)
from mlkit_cluster.analysis.methods import METHODS, ON_GRAPHS, Param, run_method
from mlkit_cluster.analysis.neighbors import MANY_IMAGES
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_NO_PAIRS = "silhouettes need all pairs: unknown; medoids are approximate"
GRAPH_NEIGHBORS = 50  # edges of an image where a graph stands for all pairs of embeddings


@dataclass(frozen=True)
class Clustering:
    """Who belongs together.

    Args:
        labels: `[N]`, -1 for noise, 0 for the largest cluster.
        probabilities: `[N]`, 0..1, where the method has them.
        medoids: Label to the image in the cluster's middle.
        silhouettes: `[N]`, -1..1; NaN for noise, with fewer than two clusters, and on graphs.
        params: Method, all its parameters that had an effect, the seed, and the `source` that the
            caller named.
        notes: What a reader must know of this result, as "one cluster: silhouettes are unknown".
    """

    labels: NDArray[np.int32]
    probabilities: NDArray[np.float32] | None
    medoids: dict[int, int]
    silhouettes: NDArray[np.float32]
    params: dict[str, object]
    notes: tuple[str, ...] = field(default=())

    @property
    def identity(self) -> str:
        """First 8 hex digits of the parameters' SHA-1."""
        return settings_id(str(self.params["method"]), self.params)


def cluster(
    method: str,
    *,
    distance: NDArray[np.floating] | NeighborGraph | None = None,
    embeddings: NDArray[np.floating] | None = None,
    seed: int = 0,
    source: Mapping[str, object] | None = None,
    **params: Param,
) -> Clustering:
    """Return clusters by one of `METHODS`, which names the parameters and their defaults.

    Args:
        method: "hdbscan", "agglomerative", "k-medoids", "k-means" or "spectral".
        distance: `[N, N]`, symmetric with a zero diagonal, or a graph of `neighbor_graph`, on
            which hdbscan and spectral work beyond 20,000 images. Not for k-means.
        embeddings: `[N, D]`, in its place; compared by the parameter `metric`, cosine or
            euclidean. Beyond 20,000 images hdbscan and spectral take their neighbour graph.
        seed: Of what is random in the method.
        source: What was clustered, as encoder or weights; part of the identity, JSON values.
        params: Of the method.

    Raises:
        InputError: For an unknown method or parameter, an input that the method cannot take.
    """
    settings = _settings(method, params)
    points, notes = _points(method, distance, embeddings, settings)
    if len(points) < 2:
        raise InputError(f"{method}: needs at least 2 images, got {len(points)}")
    if distance is not None:
        settings.pop("metric", None)
    try:
        raw, probabilities = run_method(method, points, settings, seed)
    except ValueError as err:  # sklearn's own checks of parameters
        raise InputError(f"{method}: {err}") from err
    labels = by_size(raw)
    silhouettes, medoids, said = _middle(points, labels, is_embedding=method == "k-means")
    recorded = {"method": method, **settings, "seed": seed, "source": dict(source or {})}
    notes = (*notes, *said, *_degenerate(labels))
    return Clustering(labels, probabilities, medoids, silhouettes, recorded, notes)


def by_size(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return labels renumbered from the largest cluster down (ties: the one met first)."""
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    real = names != NOISE
    order = np.lexsort((first[real], -sizes[real]))
    new = np.full(len(names), NOISE, np.int32)
    new[np.flatnonzero(real)[order]] = np.arange(len(order))
    return new[np.searchsorted(names, labels)]


def _settings(method: str, params: Mapping[str, Param]) -> dict[str, Param]:
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    unknown = sorted(set(params) - set(METHODS[method]))
    if unknown:
        known = ", ".join(METHODS[method])
        raise InputError(f"{method}: no parameter {unknown[0]!r}", hint=f"it has {known}")
    return {**METHODS[method], **params}


def _points(
    method: str,
    distance: NDArray[np.floating] | NeighborGraph | None,
    embeddings: NDArray[np.floating] | None,
    settings: Mapping[str, Param],
) -> tuple[NDArray[np.floating] | NeighborGraph, tuple[str, ...]]:
    """Return what the method reads: a matrix, a graph, or for k-means the embeddings."""
    if (distance is None) == (embeddings is None):
        raise InputError(f"{method}: give either a distance or embeddings")
    if distance is not None:
        if method == "k-means":
            what = "k-means: the loss distance is not a metric and has no means"
            raise InputError(what, hint="use k-medoids, or give embeddings")
        if isinstance(distance, NeighborGraph):
            return _connected(distance)
        refuse_asymmetric(distance, "distance")
        return distance, ()
    assert embeddings is not None  # for the type checker; refused above
    if method == "k-means":
        embedding_rows(embeddings)
        return embeddings, ()
    metric = str(settings["metric"])
    if len(embeddings) <= MANY_IMAGES:
        return pair_distances(embeddings, metric), ()
    if method not in ON_GRAPHS:
        raise InputError(
            f"{method}: needs all pairs, got {len(embeddings)} images",
            hint=f"use {' or '.join(ON_GRAPHS)}, which work on a graph of neighbours",
        )
    return _connected(embedding_graph(embeddings, GRAPH_NEIGHBORS, metric))


def _connected(graph: NeighborGraph) -> tuple[NeighborGraph, tuple[str, ...]]:
    whole, num_parts = joined(graph)
    said = f"the neighbour graph has {num_parts} unconnected parts"
    return whole, (said,) if num_parts > 1 else ()


def _middle(
    points: NDArray[np.floating] | NeighborGraph, labels: NDArray[np.int32], *, is_embedding: bool
) -> tuple[NDArray[np.float32], dict[int, int], tuple[str, ...]]:
    """Return silhouettes, medoids and what is to be said of them."""
    unknown = np.full(len(labels), np.nan, np.float32)
    if isinstance(points, NeighborGraph):
        return unknown, _graph_medoids(points, labels), (_NO_PAIRS,)
    if not is_embedding:
        return *structure(points, labels), ()
    if len(labels) <= MANY_IMAGES:
        return *structure(pair_distances(points, "euclidean"), labels), ()
    return unknown, _nearest_to_mean(points, labels), (_NO_PAIRS,)


def _graph_medoids(graph: NeighborGraph, labels: NDArray[np.int32]) -> dict[int, int]:
    """Return label to the image with the largest affinity to neighbours of its own cluster."""
    affinity = affinities(graph).tocoo()
    inside = labels[affinity.row] == labels[affinity.col]
    ties = np.bincount(affinity.row[inside], affinity.data[inside], len(labels))
    members = ((int(name), np.flatnonzero(labels == name)) for name in _names(labels))
    return {name: int(rows[ties[rows].argmax()]) for name, rows in members}


def _nearest_to_mean(embeddings: NDArray[np.floating], labels: NDArray[np.int32]) -> dict[int, int]:
    medoids = {}
    for name in _names(labels):
        rows = np.flatnonzero(labels == name)
        offsets = embeddings[rows] - embeddings[rows].mean(0)
        medoids[int(name)] = int(rows[(offsets**2).sum(1).argmin()])
    return medoids


def _names(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.unique(labels[labels != NOISE])


def _degenerate(labels: NDArray[np.int32]) -> tuple[str, ...]:
    count = len(_names(labels))
    if count > 1:
        return ()
    what = "one cluster" if count else "every image is noise"
    return (f"{what}: silhouettes are unknown",)
