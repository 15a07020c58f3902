"""The clustering methods by name: their parameters, and how each is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.analysis.graphs import NeighborGraph, dense_graph, joined
from mlkit_cluster.analysis.medoids import k_medoids
from mlkit_cluster.analysis.spectral import spectral_labels
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Param = str | int | float | bool | None
# Every method's parameters; what is not named here is refused.
METHODS: Mapping[str, Mapping[str, Param]] = {
    "hdbscan": {
        "min_cluster_size": 5,
        "min_samples": None,  # None: as min_cluster_size
        "cluster_selection_method": "eom",
        "cluster_selection_epsilon": 0.0,
        "allow_single_cluster": False,
        "metric": "cosine",
    },
    "agglomerative": {
        "num_clusters": 10,
        "linkage": "average",  # or "complete"
        "distance_threshold": None,  # in its place; num_clusters then has no effect
        "metric": "cosine",
    },
    "k-medoids": {"num_clusters": 10, "restarts": 1, "metric": "cosine"},
    "k-means": {"num_clusters": 10, "restarts": 10},
    "spectral": {"num_clusters": 10, "num_neighbors": 15, "metric": "cosine"},
}
ON_GRAPHS = ("hdbscan", "spectral")


def run_method(
    method: str,
    source: NDArray[np.floating] | NeighborGraph,
    settings: Mapping[str, Param],
    seed: int,
) -> tuple[NDArray[np.integer], NDArray[np.float32] | None]:
    """Return labels as the method numbers them, and probabilities where it has them.

    Args:
        method: One of `METHODS`.
        source: Symmetric `[N, N]`, a connected graph, or for k-means embeddings `[N, D]`.
        settings: All of the method's parameters.
        seed: Of what is random.

    Raises:
        InputError: For a parameter out of range.
    """
    if method == "hdbscan":
        return _hdbscan(source, settings)
    if method == "spectral":
        return _spectral(source, settings, seed), None
    if isinstance(source, NeighborGraph):
        raise InputError(
            f"{method}: needs all pairs, got a graph", hint=f"use {' or '.join(ON_GRAPHS)}"
        )
    if method == "agglomerative":
        return _agglomerative(source, settings), None
    count = _whole(settings, "num_clusters", len(source))
    restarts: Any = _whole(settings, "restarts")  # sklearn's stubs know only "auto"
    if method == "k-means":
        from sklearn.cluster import KMeans

        return KMeans(count, n_init=restarts, random_state=seed).fit_predict(source), None
    return k_medoids(source, count, seed=seed, restarts=restarts).labels, None


def _spectral(
    source: NDArray[np.floating] | NeighborGraph, settings: Mapping[str, Param], seed: int
) -> NDArray[np.int32]:
    count, near = _whole(settings, "num_clusters", len(source)), _whole(settings, "num_neighbors")
    if not isinstance(source, NeighborGraph):
        source = joined(dense_graph(source, near))[0]
    return spectral_labels(source, count, seed)


def _whole(settings: Mapping[str, Param], name: str, most: int | None = None) -> int:
    value = settings[name]
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= (most or value):
        return value
    bound = "at least 1" if most is None else f"1 to {most}, the number of images"
    raise InputError(f"{name}: expected a whole number, {bound}, got {value!r}")


def _hdbscan(
    source: NDArray[np.floating] | NeighborGraph, settings: Mapping[str, Param]
) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    from sklearn.cluster import HDBSCAN

    options: dict[str, Any] = {name: value for name, value in settings.items() if name != "metric"}
    # sklearn works in place on float64; anything else it has copied already.
    options["copy"] = not isinstance(source, NeighborGraph) and source.dtype == np.float64
    values = source.csr() if isinstance(source, NeighborGraph) else source
    model = HDBSCAN(metric="precomputed", **options).fit(values)
    return model.labels_, model.probabilities_.astype(np.float32)


def _agglomerative(
    source: NDArray[np.floating], settings: Mapping[str, Param]
) -> NDArray[np.integer]:
    from sklearn.cluster import AgglomerativeClustering

    linkage, threshold = settings["linkage"], settings["distance_threshold"]
    if linkage not in ("average", "complete"):
        raise InputError(f"linkage: expected 'average' or 'complete', got {linkage!r}")
    count: Any = _whole(settings, "num_clusters", len(source)) if threshold is None else None
    model = AgglomerativeClustering(
        count, metric="precomputed", linkage=linkage, distance_threshold=threshold
    )
    return model.fit_predict(source)
