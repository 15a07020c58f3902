"""FasterPAM against brute force and against simpler k-medoids."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit_cluster.analysis.medoids import _Assignment, k_medoids
from mlkit_core.errors import InputError


def random_distance(side, seed, dims=None):
    """Uniform dissimilarities without triangle inequality, or distances of points."""
    rng = np.random.default_rng(seed)
    if dims is None:
        matrix = rng.random((side, side))
        matrix = matrix + matrix.T
        np.fill_diagonal(matrix, 0)
        return matrix
    points = rng.normal(size=(side, dims)) + 4 * rng.integers(0, 4, (side, 1))
    return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def cost(distance, medoids):
    return distance[list(medoids)].min(0).sum()


def alternate(distance, num_clusters, seed):
    """Assign, take each cluster's medoid, repeat: k-means' scheme, from the same random start."""
    rng = np.random.default_rng(seed)
    medoids = rng.choice(len(distance), num_clusters, replace=False)
    while True:
        labels = distance[medoids].argmin(0)
        new = medoids.copy()
        for label in range(num_clusters):
            rows = np.flatnonzero(labels == label)
            if len(rows):
                new[label] = rows[distance[np.ix_(rows, rows)].sum(0).argmin()]
        if np.array_equal(new, medoids):
            return cost(distance, medoids)
        medoids = new


@pytest.mark.parametrize("num_clusters", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_of_few_images_is_that_of_brute_force(num_clusters, seed):
    distance = random_distance(11, seed)
    best = min(cost(distance, chosen) for chosen in combinations(range(11), num_clusters))
    found = k_medoids(distance, num_clusters, seed=seed, restarts=20)
    assert found.objective == pytest.approx(best, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 12), st.integers(0, 1000), st.data())
def test_no_single_swap_lowers_the_objective(side, seed, data):
    num_clusters = data.draw(st.integers(1, side))
    distance = random_distance(side, seed)
    found = k_medoids(distance, num_clusters, seed=seed)
    assert found.objective == pytest.approx(cost(distance, found.indices), rel=1e-12)
    assert len(set(found.indices.tolist())) == num_clusters
    assert np.array_equal(found.labels[found.indices], np.arange(num_clusters))
    for gone in found.indices:
        kept = [medoid for medoid in found.indices if medoid != gone]
        swaps = [cost(distance, [*kept, image]) for image in range(side)]
        assert min(swaps) >= found.objective * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_the_objective_is_not_above_that_of_alternating(seed):
    distance = random_distance(300, seed, dims=5)
    assert k_medoids(distance, 8, seed=seed).objective <= alternate(distance, 8, seed) * (1 + 1e-9)


def test_every_image_belongs_to_its_nearest_medoid():
    distance = random_distance(200, 3, dims=3)
    found = k_medoids(distance, 6, seed=0)
    assert np.array_equal(found.labels, distance[found.indices].argmin(0))


def test_nearest_and_second_nearest_stay_right_over_swaps():
    distance = random_distance(60, 1)
    state = _Assignment(distance, np.arange(5))
    for candidate in range(60):
        state.try_swap(candidate)
        ordered = np.sort(distance[state.medoids], axis=0)
        assert np.array_equal(state.first, ordered[0])
        assert np.array_equal(state.second, ordered[1])
    assert state.swaps > 5


def test_four_separate_groups_are_found():
    truth = np.repeat(np.arange(4), 25)
    points = np.random.default_rng(0).normal(size=(100, 2)) + 50 * truth[:, None]
    distance = np.sqrt(((points[:, None] - points) ** 2).sum(-1)).astype(np.float32)
    found = k_medoids(distance, 4, seed=1)
    assert len({(a, b) for a, b in zip(truth, found.labels, strict=True)}) == 4


def test_the_same_seed_gives_the_same_medoids_and_another_may_not_fail():
    distance = random_distance(150, 0)
    one, other = k_medoids(distance, 10, seed=5), k_medoids(distance, 10, seed=5)
    assert np.array_equal(one.indices, other.indices)
    assert one.swaps == other.swaps
    assert k_medoids(distance, 10, seed=6).objective > 0


def test_more_medoids_than_distinct_images_end_with_an_objective_of_zero():
    found = k_medoids(np.zeros((6, 6)), 4, seed=0)
    assert found.objective == 0
    assert np.array_equal(found.labels[found.indices], np.arange(4))


def test_as_many_medoids_as_images_are_all_images():
    assert k_medoids(random_distance(7, 0), 7).indices.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("matrix", "num_clusters", "message"),
    [
        (np.zeros((3, 3)), 0, "expected 1 to 3, got 0"),
        (np.zeros((3, 3)), 4, "expected 1 to 3, got 4"),
        (np.eye(3), 1, "diagonal must be 0"),
        (np.array([[0, 1.0], [2, 0]]), 1, "not symmetric"),
        (np.array([[0, -1.0], [-1, 0]]), 1, "negative"),
        (np.array([[0, np.nan], [np.nan, 0]]), 1, "row 0, column 1"),
        (np.zeros((0, 0)), 1, "expected \\[N, N\\]"),
    ],
)
def test_what_is_no_symmetric_distance_is_refused(matrix, num_clusters, message):
    with pytest.raises(InputError, match=message):
        k_medoids(matrix, num_clusters)
