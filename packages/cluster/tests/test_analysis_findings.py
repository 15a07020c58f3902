"""Contradictions, asymmetry, duplicates, subsets, sheets, hard images: by hand, by brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit_cluster.analysis import matrices
from mlkit_cluster.analysis.findings import (
    asymmetry,
    contradictions,
    greedy_facility_location,
    greedy_k_center,
    hardest,
    medoid_sheets,
    near_duplicates,
)
from mlkit_cluster.analysis.findings.pairs import asymmetry_rows
from mlkit_cluster.analysis.matrices import pair_distances
from mlkit_core.errors import InputError


@pytest.fixture
def scene():
    """Embeddings and asymmetric losses of 40 images, with unknown columns."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 4)).astype(np.float32)
    loss = rng.random((40, 40)).astype(np.float32)
    loss[:, [4, 9]] = np.nan
    return points, loss


def ranks_by_counting(matrix, i, j):
    others = [k for k in range(len(matrix)) if k != i and not np.isnan(matrix[i, k])]
    return sum(matrix[i, k] < matrix[i, j] for k in others) / (len(others) - 1)


@pytest.mark.parametrize("loss_is_near", [False, True])
def test_contradictions_are_the_largest_gaps_of_counted_ranks(scene, loss_is_near):
    points, loss = scene
    apart = pair_distances(points, "cosine")
    gaps = {}
    for i, j in itertools.permutations(range(40), 2):
        if not np.isnan(loss[i, j]):
            gap = ranks_by_counting(loss, i, j) - ranks_by_counting(apart, i, j)
            pair = (min(i, j), max(i, j))
            gaps[pair] = max(gaps.get(pair, -1), -gap if loss_is_near else gap)
    found = contradictions(points, loss, top=60, near=39, loss_is_near=loss_is_near)
    expected = sorted(gaps.values(), reverse=True)[:60]
    assert [pair.score for pair in found] == pytest.approx(expected, abs=1e-9)
    for pair in found:
        assert pair.loss == loss[pair.image, pair.other]
        assert pair.cosine_distance == pytest.approx(apart[pair.image, pair.other], abs=1e-5)
        assert pair.loss_rank == pytest.approx(ranks_by_counting(loss, pair.image, pair.other))
        assert gaps[min(pair.image, pair.other), max(pair.image, pair.other)] == pytest.approx(
            pair.score
        )


def test_a_planted_contradiction_comes_first():
    points = np.eye(20, dtype=np.float32) + 0.01
    points[7] = points[3] + 0.001
    loss = pair_distances(np.arange(20.0)[:, None], "euclidean")
    loss[3, 7] = loss[7, 3] = 100
    found = contradictions(points, loss, top=1)[0]
    assert {found.image, found.other} == {3, 7}
    assert (found.embedding_rank, found.loss_rank, found.score) == (0, 1, 1)


def test_only_near_neighbours_are_looked_at_and_blocks_change_nothing(scene, monkeypatch):
    points, loss = scene
    found = contradictions(points, loss, near=3, top=10**6)
    assert max(pair.embedding_rank for pair in found) <= 2 / 38 + 1e-9
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 90)
    assert contradictions(points, loss, near=3, top=10**6) == found


def test_contradictions_of_other_sizes_are_refused(scene):
    with pytest.raises(InputError, match="expected 40 rows, got 39"):
        contradictions(scene[0][:39], scene[1])


def test_asymmetry_is_that_by_hand():
    loss = np.array([[9, 3, np.nan], [1, 9, 2], [5, 2, 9.0]], np.float32)
    found = asymmetry(loss)
    assert found.means.tolist() == pytest.approx([0.5, (-0.5 + 0) / 2, 0])
    (pair,) = found.pairs
    assert (pair.image, pair.other, pair.score, pair.loss, pair.loss_back) == (0, 1, 0.5, 3, 1)


def test_asymmetry_is_antisymmetric_and_its_top_pairs_are_the_largest(monkeypatch):
    loss = np.random.default_rng(0).random((60, 60)).astype(np.float32)
    rows = asymmetry_rows(loss, 0, 60)
    assert np.allclose(rows, -rows.T, equal_nan=True)
    expected = np.sort(rows[rows > 0])[::-1][:25]
    assert [pair.score for pair in asymmetry(loss, top=25).pairs] == pytest.approx(expected)
    assert np.allclose(asymmetry(loss).means, np.nanmean(rows, axis=1), atol=1e-6)
    whole = asymmetry(loss, top=25)
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 200)
    parts = asymmetry(loss, top=25)
    assert parts.pairs == whole.pairs
    assert np.array_equal(parts.means, whole.means)


def test_a_symmetric_matrix_has_no_unequal_pair():
    found = asymmetry(np.zeros((4, 4)))
    assert found.pairs == []
    assert found.means.tolist() == [0, 0, 0, 0]
    assert np.isnan(asymmetry(np.full((2, 2), np.nan)).means).all()


def test_negative_losses_have_no_asymmetry():
    with pytest.raises(InputError, match="negative loss"):
        asymmetry(-np.ones((3, 3)))


def test_exact_and_near_duplicates_are_told_apart_and_grouped():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 16))
    points[5] = points[2]  # the same content
    points[8] = points[2] + 0.001 * rng.normal(size=16)  # a re-encoded copy
    points[11] = 3 * points[10]  # the same direction
    shas = [f"sha{i}" for i in range(12)]
    shas[5] = shas[2]
    shas[0] = shas[1] = None
    found = near_duplicates(shas, points)
    assert found.exact == [(2, 5)]
    assert {(pair.image, pair.other) for pair in found.near} == {(2, 8), (5, 8), (10, 11)}
    assert found.groups == [(2, 5, 8), (10, 11)]
    assert found.near[0].cosine == pytest.approx(1)


def test_near_duplicates_must_find_each_other():
    # Image 0's nearest is 1, but 1 has two that are nearer: with one neighbour they do not pair.
    angles = np.array([0, 0.10, 0.15, 0.19])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shas = list("abcd")
    one = near_duplicates(shas, points, threshold=0.9, neighbors=1)
    assert [(pair.image, pair.other) for pair in one.near] == [(2, 3)]
    two = near_duplicates(shas, points, threshold=0.9, neighbors=2)
    assert {(p.image, p.other) for p in two.near} == {(1, 2), (1, 3), (2, 3)}


def test_without_duplicates_there_are_no_groups():
    found = near_duplicates(["a", "b", "c"], np.eye(3))
    assert (found.exact, found.near, found.groups) == ([], [], [])
    with pytest.raises(InputError, match="expected 2 rows, got 3"):
        near_duplicates(["a", "b"], np.eye(3))
    with pytest.raises(InputError, match="expected -1 to 1"):
        near_duplicates(["a"], np.ones((1, 2)), threshold=2)


def test_k_center_takes_the_middle_first_then_the_farthest():
    line = pair_distances(np.array([0, 1, 2, 3, 10.0])[:, None], "euclidean")
    found = greedy_k_center(line, 3)
    assert found.images.tolist() == [2, 4, 0]
    assert found.radius.tolist() == [8, 2, 1]
    # The farthest are 10, 9, 8, 7, 10 away: 44 in all.
    assert found.covered.tolist() == pytest.approx([1 - 12 / 44, 1 - 4 / 44, 1 - 2 / 44])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 25), st.integers(0, 1000), st.booleans())
def test_subsets_grow_cover_and_shrink_radius(side, seed, by_center):
    distance = pair_distances(np.random.default_rng(seed).normal(size=(side, 3)), "euclidean")
    choose = greedy_k_center if by_center else greedy_facility_location
    found = choose(distance, side)
    assert sorted(found.images.tolist()) == list(range(side))
    assert np.all(np.diff(found.covered) >= -1e-9)
    assert np.all(np.diff(found.radius) <= 0)
    assert found.covered[-1] == pytest.approx(1)
    assert found.radius[-1] == 0
    few = choose(distance, 1 + side // 2)
    assert np.array_equal(few.images, found.images[: 1 + side // 2])


@pytest.mark.parametrize("seed", range(5))
def test_lazy_facility_location_is_the_plain_greedy_and_near_the_best(seed):
    rng = np.random.default_rng(seed)
    distance = rng.random((14, 14))
    distance = distance + distance.T
    np.fill_diagonal(distance, 0)
    farthest = distance.max(1)
    nearest, chosen = farthest.copy(), []
    for _ in range(4):
        costs = [np.minimum(nearest, distance[image]).sum() for image in range(14)]
        chosen.append(int(np.argmin(costs)))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    found = greedy_facility_location(distance, 4)
    assert found.images.tolist() == chosen
    best = max(
        1 - distance[list(some)].min(0).sum() / farthest.sum()
        for some in itertools.combinations(range(14), 4)
    )
    assert (1 - 1 / math.e) * best <= found.covered[-1] <= best + 1e-12


def test_a_subset_of_equal_images_covers_all_at_once():
    found = greedy_facility_location(np.zeros((5, 5)), 2)
    assert found.covered.tolist() == [1, 1]
    assert len(set(greedy_k_center(np.zeros((5, 5)), 5).images.tolist())) == 5
    with pytest.raises(InputError, match="expected 1 to 5 images, got 6"):
        greedy_k_center(np.zeros((5, 5)), 6)


def test_a_sheet_holds_medoid_members_by_distance_and_shares_of_the_loss():
    distance = pair_distances(np.array([0, 1, 3, 50, 51, 90.0])[:, None], "euclidean")
    labels = np.array([0, 0, 0, 1, 1, -1])
    box = np.arange(36, dtype=np.float32).reshape(6, 6)
    cls = np.ones((6, 6), np.float32)
    box[:, 2] = np.nan
    first, second = medoid_sheets(labels, distance, {"box": box, "cls": cls}, {"box": 2, "cls": 5})
    assert (first.label, first.size, first.medoid) == (0, 3, 1)
    assert first.members.tolist() == [1, 0, 2]
    assert first.distances.tolist() == [0, 1, 2]
    # Known pairs of 0, 1, 2 in box: 1, 6, 12, 13; cls has 6 pairs.
    assert first.profile == pytest.approx({"box": 64 / 94, "cls": 30 / 94})
    assert second.members.tolist() == [3, 4]
    # Box of 3, 4: 22 and 27.
    assert second.profile == pytest.approx({"box": 98 / 108, "cls": 10 / 108})


def test_noise_has_no_sheet_and_one_image_has_no_profile():
    sheets = medoid_sheets(
        np.array([-1, 0]), np.zeros((2, 2)), {"box": np.ones((2, 2))}, {"box": 1}
    )
    assert [(sheet.label, sheet.size) for sheet in sheets] == [(0, 1)]
    assert math.isnan(sheets[0].profile["box"])
    with pytest.raises(InputError, match="no weight for box"):
        medoid_sheets(np.zeros(2), np.zeros((2, 2)), {"box": np.ones((2, 2))}, {})


def test_the_medoid_leads_its_members_also_among_duplicates():
    distance = np.array([[0, 0, 5], [0, 0, 1], [5, 1, 0.0]])  # losses need no triangle inequality
    sheet = medoid_sheets(np.zeros(3, int), distance, {}, {})[0]
    assert sheet.medoid == 1
    assert sheet.members.tolist() == [1, 0, 2]


def test_the_hardest_images_are_listed_by_component_and_in_total():
    losses = {
        "box": np.array([1, np.nan, 3, 2, np.nan]),
        "cls": np.array([10, 90, 20, 20, np.nan]),
    }
    found = hardest(losses, {"box": 7.5, "cls": 0.5}, top=3)
    assert [(hard.image, hard.loss) for hard in found["box"]] == [(2, 3), (3, 2), (0, 1)]
    assert [hard.image for hard in found["cls"]] == [1, 2, 3]
    # 7.5 + 5, 45, 22.5 + 10, 15 + 10, unknown.
    assert [(hard.image, hard.loss) for hard in found["total"]] == [(1, 45), (2, 32.5), (3, 25)]
    assert len(hardest(losses, {"box": 1, "cls": 1})["total"]) == 4


@pytest.mark.parametrize(
    ("losses", "gains", "message"),
    [
        ({}, {}, "components of one length"),
        ({"box": np.ones(2), "cls": np.ones(3)}, {"box": 1, "cls": 1}, "one length"),
        ({"total": np.ones(2)}, {"total": 1}, "none named total"),
        ({"box": np.ones(2)}, {}, "no gain for box"),
    ],
)
def test_losses_that_do_not_fit_are_refused(losses, gains, message):
    with pytest.raises(InputError, match=message):
        hardest(losses, gains)
