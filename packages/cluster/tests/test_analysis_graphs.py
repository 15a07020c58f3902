"""Graphs of neighbours and the clusters on them."""

import numpy as np
import pytest
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from mlkit_cluster.analysis import clusters
from mlkit_cluster.analysis.clusters import cluster
from mlkit_cluster.analysis.graphs import (
    affinities,
    dense_graph,
    embedding_graph,
    joined,
    neighbor_graph,
)
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_core.errors import InputError


@pytest.fixture(scope="module")
def groups():
    """Embeddings of four groups, their distance, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(4), (50, 40, 30, 20)))
    points = (rng.normal(size=(140, 8)) + 12 * np.eye(8)[truth]).astype(np.float32)
    return points, pair_distances(points, "euclidean"), truth


def test_hdbscan_on_the_graph_of_all_pairs_is_that_of_the_matrix(groups):
    _, distance, _ = groups
    noisy = distance + pair_distances(np.random.default_rng(1).random((140, 3)), "euclidean")
    dense = cluster("hdbscan", distance=noisy, min_cluster_size=6)
    sparse = cluster("hdbscan", distance=dense_graph(noisy, 139), min_cluster_size=6)
    assert np.array_equal(dense.labels, sparse.labels)
    assert np.allclose(dense.probabilities, sparse.probabilities, atol=1e-6)


@pytest.mark.parametrize(("method", "params"), [("hdbscan", {}), ("spectral", {"num_clusters": 4})])
def test_a_graph_in_unconnected_parts_is_clustered_and_said(groups, method, params):
    points, _, truth = groups
    found = cluster(method, distance=embedding_graph(points, 10, "euclidean"), **params)
    clustered = found.labels >= 0
    assert adjusted_rand_score(truth[clustered], found.labels[clustered]) == 1
    assert found.notes[0] == "the neighbour graph has 4 unconnected parts"
    assert np.isnan(found.silhouettes).all()
    assert all(found.labels[medoid] == label for label, medoid in found.medoids.items())


@pytest.mark.parametrize("seed", range(4))
def test_no_part_of_a_graph_is_missed_by_the_search_for_eigenvectors(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, 300)
    points = rng.normal(size=(300, 16)) + 12 * rng.normal(size=(6, 16))[truth]
    found = cluster("spectral", distance=embedding_graph(points, 30, "euclidean"), num_clusters=6)
    assert adjusted_rand_score(truth, found.labels) == 1


def test_a_path_is_cut_in_the_middle_not_in_odd_and_even_images():
    # A path has an eigenvalue of -1, as large as 1 in magnitude, whose vector alternates.
    images = np.arange(299)
    graph = neighbor_graph(images, images + 1, np.ones(299), 300)
    labels = cluster("spectral", distance=graph, num_clusters=2).labels
    assert np.count_nonzero(np.diff(labels)) == 1
    assert np.bincount(labels).min() > 100


def test_spectral_clusters_of_a_connected_graph_are_sklearns():
    rng = np.random.default_rng(5)
    truth = np.repeat(np.arange(3), 100)
    points = rng.normal(size=(300, 2)) + 3.5 * np.eye(3)[truth, :2]
    graph, parts = joined(dense_graph(pair_distances(points, "euclidean"), 20))
    assert parts == 1
    expected = SpectralClustering(3, affinity="precomputed", random_state=0)
    found = cluster("spectral", distance=graph, num_clusters=3)
    assert adjusted_rand_score(expected.fit_predict(affinities(graph)), found.labels) > 0.9


def test_a_graph_is_refused_by_methods_that_need_all_pairs(groups):
    with pytest.raises(InputError, match="needs all pairs, got a graph"):
        cluster("k-medoids", distance=dense_graph(groups[1], 5), num_clusters=2)


def test_many_embeddings_are_clustered_on_their_graph(groups, monkeypatch):
    points, _, truth = groups
    monkeypatch.setattr(clusters, "MANY_IMAGES", 100)
    found = cluster("hdbscan", embeddings=points, metric="euclidean")
    clustered = found.labels >= 0
    assert adjusted_rand_score(truth[clustered], found.labels[clustered]) == 1
    means = cluster("k-means", embeddings=points, num_clusters=4)
    assert np.isnan(means.silhouettes).all()
    assert means.labels[means.medoids[2]] == 2
    with pytest.raises(InputError, match="needs all pairs, got 140 images"):
        cluster("agglomerative", embeddings=points)


def test_a_graph_has_the_mean_of_both_directions_or_the_one_that_is_known():
    images, others = np.array([0, 1, 1, 2, 2]), np.array([1, 0, 2, 2, 3])
    graph = neighbor_graph(images, others, np.array([1.0, 3, 5, 9, 0]), 5).csr().toarray()
    assert graph[0, 1] == graph[1, 0] == 2
    assert graph[1, 2] == graph[2, 1] == 5
    assert 0 < graph[2, 3] < 1e-9
    assert not graph[4].any()


def test_wrong_edges_are_refused():
    one = np.array([0])
    with pytest.raises(InputError, match="0 to 1"):
        neighbor_graph(one, np.array([2]), np.ones(1), 2)
    with pytest.raises(InputError, match="finite"):
        neighbor_graph(one, np.array([1]), np.array([np.nan]), 2)
    with pytest.raises(InputError, match="more than once"):
        neighbor_graph(np.array([0, 0, 1]), np.array([1, 1, 0]), np.ones(3), 2)


def test_joining_parts_adds_one_edge_less_than_there_are_parts():
    graph = neighbor_graph(np.array([0, 2]), np.array([1, 3]), np.array([1.0, 4.0]), 5)
    whole, parts = joined(graph)
    assert parts == 3
    assert len(whole.lengths) == len(graph.lengths) + 2 * 2
    assert joined(whole)[1] == 1
