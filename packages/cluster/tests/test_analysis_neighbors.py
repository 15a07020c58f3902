"""Exact neighbours, candidates and their recall, against sorting and against all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlkit_cluster.analysis import matrices
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_cluster.analysis.neighbors import (
    candidates,
    embedding_neighbors,
    nearest_in_rows,
    recall_at,
    recalls,
    rows_to_check,
)
from mlkit_core.errors import InputError

# Few different values, so that ties and unknown values are common.
rows_of_losses = st.tuples(st.integers(1, 6), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0, 1, 2, 3, np.nan, np.inf]))
)


@settings(deadline=None)
@given(rows_of_losses, st.data())
def test_the_nearest_of_a_row_are_those_of_a_stable_sort(rows, data):
    count = data.draw(st.integers(0, rows.shape[1]))
    index, values = nearest_in_rows(rows, count)
    for row, found, lengths in zip(rows, index, values, strict=True):
        order = [column for column in np.argsort(row, kind="stable") if np.isfinite(row[column])]
        order = order[:count]
        assert found.tolist() == order + [-1] * (count - len(order))
        assert lengths[: len(order)].tolist() == row[order].tolist()
        assert np.isnan(lengths[len(order) :]).all()


def test_an_image_is_not_its_own_neighbour_and_blocks_change_nothing(monkeypatch):
    matrix = np.random.default_rng(0).random((50, 50)).astype(np.float32)
    np.fill_diagonal(matrix, 0)
    index, values = nearest_in_rows(matrix, 7, np.arange(50))
    masked = matrix + np.where(np.eye(50), np.inf, 0)
    assert np.array_equal(index, np.argsort(masked, axis=1)[:, :7])
    assert np.array_equal(values, np.sort(masked, axis=1)[:, :7].astype(np.float32))
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 120)
    assert np.array_equal(nearest_in_rows(matrix, 7, np.arange(50))[0], index)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(InputError, match="expected 0 to 3, got 4"):
        nearest_in_rows(np.ones((4, 4)), 4, np.arange(4))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_by_embedding_are_those_of_all_pairs(metric):
    points = np.random.default_rng(0).normal(size=(120, 9)).astype(np.float32)
    distance = pair_distances(points, metric)
    index, lengths = embedding_neighbors(points, 11, metric)
    expected, values = nearest_in_rows(distance, 11, np.arange(120))
    assert np.array_equal(index, expected)
    assert np.allclose(lengths, values, atol=1e-5)


def test_duplicates_do_not_make_an_image_its_own_neighbour():
    points = np.ones((30, 4), np.float32)
    index, lengths = embedding_neighbors(points, 5)
    assert not (index == np.arange(30)[:, None]).any()
    assert np.allclose(lengths, 0, atol=1e-6)
    assert all(len(set(row)) == 5 for row in index.tolist())


def test_candidates_hold_both_directions_and_no_image_itself():
    points = np.random.default_rng(1).normal(size=(80, 5)).astype(np.float32)
    found = candidates(points, 6)
    index, _ = embedding_neighbors(points, 6)
    pairs = {(i, int(j)) for i in range(80) for j in index[i]}
    expected = pairs | {(j, i) for i, j in pairs}
    got = {(i, int(j)) for i in range(80) for j in found.of(i)}
    assert got == expected
    assert len(found.columns) == len(expected)
    assert all(np.all(np.diff(found.of(i)) > 0) for i in range(80))
    assert len(found) == 80


def test_more_candidates_than_images_are_all_others():
    found = candidates(np.random.default_rng(0).random((7, 3)), 200)
    assert all(found.of(i).tolist() == [j for j in range(7) if j != i] for i in range(7))


def test_recall_counts_true_neighbours_among_candidates():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(90, 4)).astype(np.float32)
    found = candidates(points, 12)
    losses = pair_distances(points, "cosine") + 0.2 * rng.random((90, 90)).astype(np.float32)
    images = rows_to_check(90, 20, seed=1)
    shares = []
    for image in images:
        order = [j for j in np.argsort(losses[image]) if j != image][:10]
        shares.append(len(set(order) & set(found.of(image).tolist())) / 10)
    assert recalls(found, images, losses[images]).tolist() == pytest.approx(shares)
    assert recall_at(found, images, losses[images]) == pytest.approx(np.mean(shares))
    assert 0.2 < recall_at(found, images, losses[images]) < 1


def test_recall_is_one_where_the_embedding_is_the_distance():
    points = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
    distance = pair_distances(points, "cosine")
    found = candidates(points, 15)
    assert recall_at(found, np.arange(60), distance, k=10) == 1


def test_unknown_losses_are_no_true_neighbours():
    found = candidates(np.random.default_rng(0).random((6, 3)), 5)
    row = np.full((1, 6), np.nan)
    with pytest.raises(InputError, match="image 2 has no known loss"):
        recalls(found, np.array([2]), row)
    row[0, 4] = 1
    assert recall_at(found, np.array([2]), row) == 1
    with pytest.raises(InputError, match=r"expected \[1, 6\]"):
        recalls(found, np.array([2]), row[:, :5])


def test_rows_to_check_are_distinct_ascending_and_repeatable():
    images = rows_to_check(5000)
    assert len(set(images.tolist())) == 200
    assert np.array_equal(images, np.sort(images))
    assert np.array_equal(images, rows_to_check(5000))
    assert rows_to_check(3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((0, 3)), r"expected \[N, D\]"),
        (np.zeros(3), r"expected \[N, D\]"),
        (np.full((3, 2), np.nan), "row 0, column 0"),
    ],
)
def test_embeddings_that_are_none_are_refused(embeddings, message):
    with pytest.raises(InputError, match=message):
        embedding_neighbors(embeddings, 2)


def test_one_image_has_no_neighbours():
    index, _ = embedding_neighbors(np.ones((1, 4)), 5)
    assert index.shape == (1, 0)
    assert candidates(np.ones((1, 4))).columns.tolist() == []
