"""Clusters by every method, on groups that are known."""

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score

from mlkit_cluster.analysis.clusters import by_size, cluster
from mlkit_cluster.analysis.internal import internal_scores, silhouettes
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_core.errors import InputError

SIZES = (50, 40, 30, 20)


@pytest.fixture(scope="module")
def groups():
    """Embeddings of four groups, their distance, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(4), SIZES))
    points = (rng.normal(size=(140, 8)) + 12 * np.eye(8)[truth]).astype(np.float32)
    return points, pair_distances(points, "euclidean"), truth


METHODS = [
    ("hdbscan", {}),
    ("agglomerative", {"num_clusters": 4}),
    ("agglomerative", {"num_clusters": 4, "linkage": "complete"}),
    ("agglomerative", {"distance_threshold": 8.0}),
    ("k-medoids", {"num_clusters": 4}),
    ("spectral", {"num_clusters": 4}),
]


@pytest.mark.parametrize(("method", "params"), METHODS)
def test_every_method_finds_four_separate_groups(groups, method, params):
    _, distance, truth = groups
    found = cluster(method, distance=distance, seed=3, **params)
    clustered = found.labels >= 0
    assert clustered.mean() > 0.95
    assert adjusted_rand_score(truth[clustered], found.labels[clustered]) == 1
    assert np.bincount(found.labels[clustered]).tolist() == sorted(
        np.bincount(found.labels[clustered]), reverse=True
    )
    assert found.notes == ()
    assert found.params["seed"] == 3


@pytest.mark.parametrize(("method", "params"), METHODS)
def test_two_runs_with_one_seed_are_equal(groups, method, params):
    _, distance, _ = groups
    one, other = (cluster(method, distance=distance, seed=7, **params) for _ in range(2))
    assert np.array_equal(one.labels, other.labels)
    assert one.medoids == other.medoids
    assert one.identity == other.identity


def test_the_identity_tells_apart_what_was_clustered_and_how(groups):
    _, distance, _ = groups
    makes = [
        {"seed": 0},
        {"seed": 1},
        {"source": {"symmetrise": "mean"}},
        {"source": {"symmetrise": "debiased"}},
        {"num_clusters": 3},
    ]
    found = [cluster("k-medoids", distance=distance, **make) for make in makes]
    assert len({one.identity for one in found}) == 5
    assert found[2].params == {
        "method": "k-medoids",
        "num_clusters": 10,
        "restarts": 1,
        "seed": 0,
        "source": {"symmetrise": "mean"},
    }


def test_the_input_is_not_changed(groups):
    distance = groups[1].astype(np.float64)
    before = distance.copy()
    cluster("hdbscan", distance=distance)
    assert np.array_equal(distance, before)


def test_hdbscan_is_sklearns_on_the_same_matrix(groups):
    _, distance, _ = groups
    noisy = distance + 3 * pair_distances(np.random.default_rng(1).random((140, 3)), "euclidean")
    found = cluster("hdbscan", distance=noisy, min_cluster_size=8, min_samples=3)
    model = HDBSCAN(min_cluster_size=8, min_samples=3, metric="precomputed", copy=True)
    expected = model.fit(noisy.astype(np.float64))
    assert adjusted_rand_score(expected.labels_, found.labels) == 1
    assert np.array_equal(expected.labels_ == -1, found.labels == -1)
    assert np.allclose(found.probabilities, expected.probabilities_)


def test_average_linkage_is_sklearns_where_groups_overlap():
    points = np.random.default_rng(2).normal(size=(90, 3))
    distance = pair_distances(points, "euclidean")
    found = cluster("agglomerative", distance=distance, num_clusters=7)
    expected = AgglomerativeClustering(7, metric="precomputed", linkage="average")
    assert adjusted_rand_score(expected.fit_predict(distance), found.labels) == 1


def test_k_means_takes_embeddings_and_refuses_the_loss_distance(groups):
    points, distance, truth = groups
    found = cluster("k-means", embeddings=points, num_clusters=4)
    assert adjusted_rand_score(truth, found.labels) == 1
    with pytest.raises(InputError, match="not a metric"):
        cluster("k-means", distance=distance, num_clusters=4)


def test_silhouettes_are_sklearns_over_images_that_are_not_noise(groups):
    _, distance, _ = groups
    labels = np.random.default_rng(4).integers(-1, 5, 140)
    real = labels >= 0
    expected = silhouette_samples(distance[np.ix_(real, real)], labels[real], metric="precomputed")
    found = silhouettes(distance, labels)
    assert np.allclose(found[real], expected, atol=1e-5)
    assert np.isnan(found[~real]).all()


def test_an_image_alone_has_a_silhouette_of_zero_and_duplicates_too():
    distance = np.array([[0, 0, 5.0], [0, 0, 5], [5, 5, 0]])
    assert silhouettes(distance, np.array([0, 0, 1])).tolist() == [1, 1, 0]
    assert silhouettes(np.zeros((4, 4)), np.array([0, 0, 1, 1])).tolist() == [0, 0, 0, 0]


def test_internal_scores_are_those_by_hand():
    distance = np.array([[0, 2, 9, 8], [2, 0, 7, 6], [9, 7, 0, 4], [8, 6, 4, 0.0]])
    scores = internal_scores(distance, np.array([0, 0, 1, 1]))
    assert scores["within"] == 3
    assert scores["between"] == 7.5
    assert scores["within_between_ratio"] == pytest.approx(0.4)
    assert scores["silhouette"] == pytest.approx(
        silhouette_score(distance, [0, 0, 1, 1], metric="precomputed")
    )
    assert scores["clusters"][1] == pytest.approx(
        {
            "label": 1,
            "size": 2,
            "medoid": 2,
            "mean_to_medoid": 4,
            "mean_within": 4,
            "silhouette": (4 / 8 + 3 / 7) / 2,
        }
    )


def test_the_row_of_a_cluster_names_the_image_in_its_middle():
    distance = pair_distances(np.array([0, 4, 5, 50.0])[:, None], "euclidean")
    row = internal_scores(distance, np.array([3, 3, 3, 1]))["clusters"][1]
    assert (row["label"], row["medoid"], row["size"]) == (3, 1, 3)
    assert row["mean_to_medoid"] == 2.5
    assert row["mean_within"] == pytest.approx(10 / 3)


def test_internal_scores_of_noise_and_of_one_cluster_are_unknown_not_zero():
    distance = pair_distances(np.random.default_rng(0).normal(size=(6, 2)), "euclidean")
    noise = internal_scores(distance, np.full(6, -1))
    assert noise["num_clusters"] == 0
    assert noise["noise"] == 6
    assert np.isnan([noise["silhouette"], noise["within"], noise["between"]]).all()
    one = internal_scores(distance, np.zeros(6, int))
    assert np.isnan([one["silhouette"], one["between"], one["within_between_ratio"]]).all()
    assert one["within"] == pytest.approx(distance[~np.eye(6, dtype=bool)].mean(), rel=1e-6)


def test_medoids_have_the_least_summed_distance_of_their_cluster(groups):
    _, distance, _ = groups
    found = cluster("agglomerative", distance=distance, num_clusters=4)
    for label, medoid in found.medoids.items():
        rows = np.flatnonzero(found.labels == label)
        assert medoid == rows[distance[np.ix_(rows, rows)].sum(0).argmin()]


def test_all_noise_is_said_and_has_no_medoid():
    distance = pair_distances(np.random.default_rng(0).normal(size=(8, 2)), "euclidean")
    found = cluster("hdbscan", distance=distance, min_cluster_size=8)
    assert set(found.labels.tolist()) == {-1}
    assert found.medoids == {}
    assert np.isnan(found.silhouettes).all()
    assert found.notes == ("every image is noise: silhouettes are unknown",)


def test_one_cluster_is_said_and_its_silhouettes_are_unknown(groups):
    found = cluster("k-medoids", distance=groups[1], num_clusters=1)
    assert set(found.labels.tolist()) == {0}
    assert np.isnan(found.silhouettes).all()
    assert found.notes == ("one cluster: silhouettes are unknown",)


def test_labels_are_renumbered_by_size_with_ties_by_first_appearance():
    assert by_size(np.array([7, 7, -1, 3, 3, 3, 9, 1])).tolist() == [1, 1, -1, 0, 0, 0, 2, 3]
    assert by_size(np.array([-1, -1])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("dbscan", {}, "expected one of hdbscan, agglomerative"),
        ("hdbscan", {"eps": 1}, "no parameter 'eps'"),
        ("hdbscan", {"min_cluster_size": 1}, "min_cluster_size"),
        ("hdbscan", {"min_samples": 500}, "min_samples"),
        ("agglomerative", {"linkage": "ward"}, "'average' or 'complete', got 'ward'"),
        ("k-medoids", {"num_clusters": 141}, "1 to 140, the number of images, got 141"),
        ("k-medoids", {"num_clusters": 2.5}, "whole number"),
        ("spectral", {"num_clusters": 0}, "got 0"),
    ],
)
def test_wrong_names_and_values_are_refused(groups, method, params, message):
    with pytest.raises(InputError, match=message):
        cluster(method, distance=groups[1], **params)


def test_one_input_is_needed_and_it_must_be_symmetric(groups):
    points, distance, _ = groups
    with pytest.raises(InputError, match="either a distance or embeddings"):
        cluster("hdbscan")
    with pytest.raises(InputError, match="either a distance or embeddings"):
        cluster("hdbscan", distance=distance, embeddings=points)
    with pytest.raises(InputError, match="not symmetric"):
        cluster("hdbscan", distance=np.triu(distance))
    with pytest.raises(InputError, match="at least 2 images"):
        cluster("hdbscan", distance=np.zeros((1, 1)))
