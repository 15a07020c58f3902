"""Components to one distance, and to a symmetric one."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from mlkit_cluster.analysis.combine import (
    SYMMETRIES,
    component_factors,
    symmetrise,
    total_distance,
)
from mlkit_cluster.analysis.matrices import off_diagonal, pair_distances, row_blocks
from mlkit_core.errors import InputError

BOX = np.array([[0.1, 2, 3], [4, 0.2, 6], [7, 8, 0.3]], np.float32)
CLS = np.array([[1, 10, 20], [30, 1, 40], [50, 60, 1]], np.float32)
squares = st.integers(1, 7).flatmap(
    lambda side: arrays(np.float64, (side, side), elements=st.floats(0, 100))
)


def test_total_is_the_weighted_sum_with_the_diagonal_as_it_came():
    total, kept = total_distance({"box": BOX, "cls": CLS}, {"box": 7.5, "cls": 0.5, "seg": 7.5})
    assert np.allclose(total, 7.5 * BOX + 0.5 * CLS)
    assert total[0, 0] == pytest.approx(1.25)
    assert total.dtype == np.float32
    assert kept.tolist() == [0, 1, 2]


def test_robust_weights_divide_by_the_off_diagonal_median():
    # Off the diagonal box holds 2 3 4 6 7 8 (median 5) and cls 10 … 60 (median 35).
    assert component_factors({"box": BOX, "cls": CLS}, "robust") == pytest.approx(
        {"box": 1 / 5, "cls": 1 / 35}
    )
    total, _ = total_distance({"box": BOX, "cls": CLS}, "robust")
    assert np.allclose(total, BOX / 5 + CLS / 35)


def test_unknown_losses_become_the_99th_percentile_off_the_diagonal():
    rng = np.random.default_rng(0)
    box = rng.random((40, 40)).astype(np.float32)
    np.fill_diagonal(box, 1000)
    box[:, 3] = np.nan
    known = box[~np.eye(40, dtype=bool)]
    expected = np.percentile(known[~np.isnan(known)], 99)
    total, kept = total_distance({"box": box}, {"box": 2.0}, "max")
    assert np.allclose(total[:, 3], 2 * expected)
    assert len(kept) == 40
    assert np.array_equal(total[:, 4], 2 * box[:, 4])


def test_dropping_leaves_out_the_images_without_targets_only():
    box = BOX.copy()
    box[:, 1] = np.nan
    total, kept = total_distance({"box": box, "cls": CLS}, {"box": 1, "cls": 1}, "drop")
    assert kept.tolist() == [0, 2]
    assert np.allclose(total, (BOX + CLS)[np.ix_([0, 2], [0, 2])])


def test_a_row_that_is_unknown_does_not_drop_every_column():
    box = np.ones((5, 5), np.float32)
    box[2] = np.nan
    box[:, 4] = np.nan
    _, kept = total_distance({"box": box}, {"box": 1}, "drop")
    assert kept.tolist() == [0, 1, 3]


def test_unknown_losses_of_a_component_with_weight_zero_do_not_count():
    total, kept = total_distance(
        {"box": BOX, "seg": np.full((3, 3), np.nan, np.float32)}, {"box": 1, "seg": 0}, "drop"
    )
    assert np.array_equal(total, BOX)
    assert len(kept) == 3


@pytest.mark.parametrize(
    ("components", "weights", "nan", "message"),
    [
        ({}, {}, "max", "none given"),
        ({"box": BOX[:2]}, {"box": 1}, "max", "expected \\[N, N\\]"),
        ({"box": BOX, "cls": CLS[:2, :2]}, {"box": 1, "cls": 1}, "max", "one size"),
        ({"box": BOX}, {"cls": 1}, "max", "no weight for box"),
        ({"box": BOX}, {"box": -1}, "max", "at least 0, got -1"),
        ({"box": BOX}, {"box": 0}, "max", "every component's weight is 0"),
        ({"box": BOX}, "gains", "max", "or 'robust', got 'gains'"),
        ({"box": BOX}, {"box": 1}, "zero", "'max' or 'drop'"),
        ({"seg": BOX * np.nan}, {"seg": 1}, "max", "no known value"),
        ({"seg": BOX * np.nan}, {"seg": 1}, "drop", "no image is left"),
        ({"seg": BOX * 0}, "robust", "max", "median is 0"),
    ],
)
def test_what_cannot_be_combined_is_refused(components, weights, nan, message):
    with pytest.raises(InputError, match=message):
        total_distance(components, weights, nan)


@pytest.mark.parametrize(
    ("how", "pair"), [("mean", 3), ("max", 4), ("min", 2), ("debiased", (2 + 4 - 0.1 - 0.2) / 2)]
)
def test_symmetric_values_are_those_by_hand(how, pair):
    result = symmetrise(BOX, how)
    assert result[0, 1] == pytest.approx(pair, rel=1e-6)
    assert result[1, 0] == result[0, 1]
    assert np.all(np.diagonal(result) == 0)


def test_a_debiased_distance_is_never_negative():
    losses = np.array([[5.0, 1], [1, 5]])
    assert np.array_equal(symmetrise(losses, "debiased"), np.zeros((2, 2)))


@given(squares, st.sampled_from(SYMMETRIES))
def test_symmetrising_gives_a_symmetric_matrix_and_leaves_its_input(matrix, how):
    before = matrix.copy()
    result = symmetrise(matrix, how)
    assert np.array_equal(result, result.T)
    assert not np.diagonal(result).any()
    assert result.min() >= 0
    assert np.array_equal(matrix, before)
    assert np.array_equal(symmetrise(result, "mean"), result)
    assert np.array_equal(symmetrise(matrix, how, overwrite=True), result)


@pytest.mark.parametrize("how", SYMMETRIES)
def test_tiles_and_overwriting_change_nothing(how):
    rng = np.random.default_rng(1)
    matrix = rng.random((2100, 2100)).astype(np.float32)
    other, own = matrix.T, np.diagonal(matrix)
    expected = {
        "mean": (matrix + other) / 2,
        "max": np.maximum(matrix, other),
        "min": np.minimum(matrix, other),
        "debiased": np.maximum(matrix + other - own[:, None] - own, 0) / 2,
    }[how]
    np.fill_diagonal(expected, 0)
    assert np.allclose(symmetrise(matrix, how), expected, atol=1e-6)
    assert np.allclose(symmetrise(matrix, how, overwrite=True), expected, atol=1e-6)
    assert np.allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_symmetrising_refuses_unknown_values_and_names_the_place(bad):
    matrix = np.ones((4, 4))
    matrix[2, 1] = bad
    with pytest.raises(InputError, match="row 2, column 1"):
        symmetrise(matrix)


def test_symmetrising_in_place_takes_no_second_matrix():
    matrix = np.random.default_rng(0).random((3000, 3000)).astype(np.float32)
    tracemalloc.start()
    symmetrise(matrix, "debiased", overwrite=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < matrix.nbytes


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 10**7))
def test_blocks_cover_every_row_once(num_rows, num_columns):
    blocks = list(row_blocks(num_rows, num_columns))
    assert [row for a, b in blocks[:5] for row in range(a, b)] == list(range(blocks[:5][-1][1]))
    assert blocks[-1][1] == num_rows
    assert all(before[1] == after[0] for before, after in itertools.pairwise(blocks))


def test_the_off_diagonal_view_holds_all_but_the_diagonal():
    matrix = np.arange(25.0).reshape(5, 5)
    assert sorted(off_diagonal(matrix).ravel()) == sorted(matrix[~np.eye(5, dtype=bool)])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_of_embeddings_are_scipys(metric):
    points = np.random.default_rng(0).normal(size=(60, 7))
    distances = pair_distances(points, metric)
    assert np.allclose(distances, cdist(points, points, metric), atol=1e-6)
    assert np.array_equal(distances, distances.T)
