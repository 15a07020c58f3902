"""Spectral clustering of a neighbour graph, by products with it alone: no matrix is factorised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, diags, identity
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans

from mlkit_cluster.analysis.graphs import affinities
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlkit_cluster.analysis.graphs import NeighborGraph


def spectral_labels(graph: NeighborGraph, num_clusters: int, seed: int) -> NDArray[np.int32]:
    """Return labels 0..num_clusters-1 of the images of a connected graph of distances.

    Source: Ng, Jordan and Weiss, "On Spectral Clustering", NIPS 2001, on the affinities of
    `graphs.affinities`.

    Args:
        graph: Connected; see `graphs.joined`.
        num_clusters: From 1 to N.
        seed: Of the eigenvectors' start and of k-means.

    Raises:
        MlkitError: Where the eigenvectors do not converge.
    """
    if num_clusters == 1:
        return np.zeros(len(graph), np.int32)
    affinity = affinities(graph)
    scale = diags(1 / np.sqrt(np.asarray(affinity.sum(1)).ravel()))
    vectors = _leading(csr_matrix(scale @ affinity @ scale), num_clusters, seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    points = vectors / np.where(lengths > 0, lengths, 1)
    starts: Any = 10  # sklearn's stubs know only "auto"
    return KMeans(num_clusters, n_init=starts, random_state=seed).fit_predict(points)


def _leading(matrix: Any, count: int, seed: int) -> NDArray[np.float64]:  # noqa: ANN401
    """Return eigenvectors `[N, count]` of the largest eigenvalues of a symmetric matrix."""
    side = matrix.shape[0]
    if side <= max(200, 2 * count):
        return np.linalg.eigh(matrix.toarray())[1][:, -count:]
    start = np.random.default_rng(seed).normal(size=side)
    # Eigenvalues lie in -1..1: shifted, the largest are the largest in magnitude.
    shifted = csr_matrix(matrix + identity(side))
    # To rounding: a looser bound misses copies of an eigenvalue, of which every part has one.
    options: dict[str, Any] = {"ncv": min(side - 1, max(4 * count, 40)), "tol": 0, "maxiter": 5000}
    try:
        found: Any = eigsh(shifted, count, which="LM", v0=start, **options)
    except ArpackNoConvergence as err:
        raise MlkitError(
            f"spectral: {count} eigenvectors did not converge",
            hint="raise num_neighbors or lower num_clusters",
        ) from err
    return found[1]
