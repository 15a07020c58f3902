"""External scores and the kNN protocol against sklearn and scipy, and their baselines."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from mlkit_cluster.analysis.evaluation import agreement, contingency, external_scores
from mlkit_cluster.analysis.knn_protocol import (
    KS,
    classify,
    fold_neighbors,
    knn_scores,
    rank_correlation,
    regress,
)
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_core.errors import InputError

partitions = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)))
)


@settings(max_examples=60, deadline=None)
@given(partitions)
def test_scores_are_sklearns(pair):
    labels, classes = map(np.array, pair)
    found = agreement(labels, classes, 5, 0)
    expected = {
        "nmi": metrics.normalized_mutual_info_score(classes, labels),
        "ami": metrics.adjusted_mutual_info_score(classes, labels),
        "ari": metrics.adjusted_rand_score(classes, labels),
        "homogeneity": metrics.homogeneity_score(classes, labels),
        "completeness": metrics.completeness_score(classes, labels),
        "purity": metrics.cluster.contingency_matrix(classes, labels).max(0).sum() / len(labels),
        "majority": np.bincount(classes).max() / len(classes),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert 1 / 6 <= found["nmi_p"] <= 1
    assert found["purity"] >= found["majority"] - 1e-12


@given(partitions)
def test_contingency_counts_every_image_once(pair):
    labels, classes = map(np.array, pair)
    table = contingency(labels, classes)
    assert table.sum() == len(labels)
    assert table[labels[0], classes[0]] >= 1


def test_noise_is_scored_dropped_and_as_single_images():
    labels = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    classes = np.array([5, 5, 5, 9, 9, 9, 5, 9])
    found = external_scores(labels, classes)
    assert found["noise"] == 2
    assert found["coverage"] == 0.75
    assert found["noise_dropped"]["nmi"] == 1
    single = [0, 0, 0, 1, 1, 1, 2, 3]
    assert found["noise_as_singletons"]["ari"] == pytest.approx(
        metrics.adjusted_rand_score(classes, single)
    )
    assert found["noise_as_singletons"]["homogeneity"] == pytest.approx(1)
    assert found["noise_as_singletons"]["completeness"] < 1


def test_images_without_class_take_no_part():
    labels, classes = np.array([0, 0, 1, 1, 1]), np.array([3, 3, 4, 4, -1])
    found = external_scores(labels, classes)
    assert (found["images"], found["without_class"]) == (4, 1)
    assert found["noise_dropped"]["ari"] == 1
    assert external_scores(labels, classes, unknown=None)["images"] == 5


def test_agreement_beyond_chance_has_a_small_p_and_chance_has_not():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 120)
    found = external_scores(classes, classes)["noise_dropped"]
    assert found["nmi_p"] == found["ari_p"] == pytest.approx(1 / 201)
    assert found["nmi_permuted"] < 0.1
    p_values = [
        external_scores(rng.integers(0, 4, 120), classes, seed=seed)["noise_dropped"]["ari_p"]
        for seed in range(40)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15
    assert 0.3 < np.mean(p_values) < 0.7


def test_one_cluster_has_no_information_and_a_p_of_one():
    found = external_scores(np.zeros(20, int), np.arange(20) % 3)["noise_dropped"]
    assert found["nmi"] == pytest.approx(0)
    assert found["ari"] == pytest.approx(0)
    assert found["nmi_p"] == 1
    assert found["purity"] == found["majority"] == 0.35


def test_all_noise_is_unknown_not_zero_when_dropped():
    found = external_scores(np.full(12, -1), np.arange(12) % 3)
    assert found["coverage"] == 0
    assert all(math.isnan(value) for value in found["noise_dropped"].values())
    assert found["noise_as_singletons"]["homogeneity"] == pytest.approx(1)
    assert found["noise_as_singletons"]["ari"] == pytest.approx(0)


def test_no_known_class_at_all_gives_no_score():
    found = external_scores(np.zeros(3, int), np.full(3, -1))
    assert found["images"] == 0
    assert math.isnan(found["coverage"])


def test_fewer_than_200_permutations_and_other_lengths_are_refused():
    with pytest.raises(InputError, match="at least 200, got 50"):
        external_scores(np.zeros(3, int), np.zeros(3, int), permutations=50)
    with pytest.raises(InputError, match=r"got \[3\] and \[4\]"):
        external_scores(np.zeros(3, int), np.zeros(4, int))


@pytest.fixture(scope="module")
def losses():
    """An asymmetric matrix with structure, classes and values."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 130)
    points = rng.normal(size=(130, 3)) + 1.5 * np.eye(4)[classes, :3]
    matrix = pair_distances(points, "euclidean") + rng.random((130, 130))
    return matrix, classes * 10, points[:, 0] + rng.normal(size=130) / 4


def by_fold(matrix, target, model, k, weights):
    predicted = np.empty(len(target))
    for train, test in KFold(10, shuffle=True, random_state=42).split(matrix):
        fitted = model(k, weights=weights, metric="precomputed")
        fitted.fit(matrix[np.ix_(train, train)], target[train])
        predicted[test] = fitted.predict(matrix[np.ix_(test, train)])
    return predicted


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_predictions_are_sklearns_from_the_rows_of_an_asymmetric_matrix(losses, k, weights):
    matrix, classes, values = losses
    near = fold_neighbors(matrix, precomputed=True)
    expected = by_fold(matrix, classes, KNeighborsClassifier, k, weights)
    assert np.array_equal(classify(near, classes, k, weights), expected)
    expected = by_fold(matrix, values, KNeighborsRegressor, k, weights)
    # Our distances are float32.
    assert np.allclose(regress(near, values, k, weights), expected, atol=1e-5)


def test_rows_not_columns_are_read(losses):
    matrix, _, _ = losses
    near = fold_neighbors(matrix, precomputed=True)
    other = fold_neighbors(matrix.T, precomputed=True)
    assert not np.array_equal(near.index, other.index)
    image = 17
    train = np.flatnonzero(near.fold != near.fold[image])
    assert near.index[image, 0] == train[matrix[image, train].argmin()]


def test_scores_of_a_classifier_are_sklearns_beside_their_baselines(losses):
    matrix, classes, _ = losses
    rows = knn_scores(matrix, classes, precomputed=True, task="classification")
    assert [(row["k"], row["weights"]) for row in rows] == [
        (k, weights) for k in KS for weights in ("uniform", "distance")
    ]
    guess = by_fold(matrix, classes, KNeighborsClassifier, 10, "uniform")
    row = rows[2]
    assert row["accuracy"] == pytest.approx((guess == classes).mean())
    assert row["ari"] == pytest.approx(metrics.adjusted_rand_score(classes, guess))
    near = fold_neighbors(matrix, precomputed=True)
    assert row["error_by_distance"] == pytest.approx(
        spearmanr(guess != classes, near.distance[:, :10].mean(1)).statistic
    )
    assert row["accuracy_permuted"] < 0.4 < row["accuracy"]
    assert 0.15 < row["majority"] < 0.35


def test_scores_of_a_regressor_are_sklearns_beside_their_baselines(losses):
    matrix, _, values = losses
    row = knn_scores(matrix, values, precomputed=True, task="regression", ks=(15,))[1]
    guess = by_fold(matrix, values, KNeighborsRegressor, 15, "distance")
    assert row["mae"] == pytest.approx(metrics.mean_absolute_error(values, guess), rel=1e-5)
    assert row["r2"] == pytest.approx(metrics.r2_score(values, guess), rel=1e-4)
    assert row["spearman"] == pytest.approx(spearmanr(values, guess).statistic, abs=1e-3)
    assert row["mae"] < row["mae_mean"]
    assert row["r2_mean"] <= 0
    assert row["mae_permuted"] > row["mae"]


def test_a_square_table_of_embeddings_is_no_matrix_of_distances():
    points = np.random.default_rng(0).random((30, 30))
    one = fold_neighbors(points, precomputed=True).index
    other = fold_neighbors(points, precomputed=False).index
    assert not np.array_equal(one, other)
    expected = fold_neighbors(pair_distances(points, "cosine"), precomputed=True).index
    assert np.array_equal(other, expected)


def test_images_without_target_are_neither_tested_nor_neighbours(losses):
    matrix, _, values = losses
    holes = values.copy()
    holes[::3] = np.nan
    known = np.flatnonzero(np.isfinite(holes))
    rows = knn_scores(matrix, holes, precomputed=True, task="regression")
    sub = matrix[np.ix_(known, known)]
    assert rows == knn_scores(sub, holes[known], precomputed=True, task="regression")
    assert rows[0]["images"] == 86


def test_ks_beyond_the_training_set_are_left_out(losses):
    rows = knn_scores(losses[0][:12, :12], losses[1][:12], precomputed=True, task="classification")
    assert sorted({row["k"] for row in rows}) == [5, 10]


def test_a_constant_target_has_no_correlation_and_no_r2(losses):
    row = knn_scores(losses[0], np.ones(130), precomputed=True, task="regression", ks=(5,))[0]
    assert row["mae"] == 0
    assert math.isnan(row["r2"])
    assert math.isnan(row["spearman"])
    row = knn_scores(
        losses[0], np.zeros(130, int), precomputed=True, task="classification", ks=(5,)
    )[0]
    assert row["accuracy"] == row["majority"] == 1
    assert math.isnan(row["error_by_distance"])


def test_only_neighbours_at_distance_zero_count_where_there_are_any():
    matrix = np.ones((6, 6))
    matrix[0, 1] = 0
    near = fold_neighbors(matrix, precomputed=True, folds=6)
    assert regress(near, np.array([0, 7.0, 1, 1, 1, 1]), 5, "distance")[0] == 7


def test_rank_correlation_is_scipys_and_nan_for_constants():
    one, other = np.random.default_rng(0).random((2, 20))
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert math.isnan(rank_correlation(one, np.ones(20)))


@pytest.mark.parametrize(
    ("matrix", "target", "task", "message"),
    [
        (np.full((5, 5), np.nan), np.zeros(5), "regression", "not a finite number"),
        (-np.ones((5, 5)), np.zeros(5), "regression", "got a negative one"),
        (np.ones((5, 5)), np.zeros(4), "regression", r"expected \[5\], got \[4\]"),
        (np.ones((5, 5)), np.full(5, np.nan), "regression", "at least 3 images with a target"),
        (np.ones((5, 5)), np.zeros(5), "ranking", "'classification' or 'regression'"),
        (np.ones((5, 4)), np.zeros(5), "regression", r"expected \[N, N\]"),
    ],
)
def test_what_the_protocol_cannot_take_is_refused(matrix, target, task, message):
    with pytest.raises(InputError, match=message):
        knn_scores(matrix, target, precomputed=True, task=task)
