"""Scores against MONAI, against brute force, and against values worked out by hand."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from mlkit_angioseg.metrics.bootstrap import patient_interval
from mlkit_angioseg.metrics.scores import (
    centreline_dice,
    overlap_scores,
    ranking_scores,
    surface_distance_95,
)

EMPTY = np.zeros((6, 8), bool)


def blobs(seed, threshold=0.55):
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 1, 8, 10)))
    fine = torch.nn.functional.interpolate(coarse, (40, 50), mode="bilinear")[0, 0].numpy()
    return fine > threshold


def test_overlap_of_a_worked_example():
    predicted, target = EMPTY.copy(), EMPTY.copy()
    predicted[0, :4] = True  # 4 predicted, 3 of them right
    target[0, 1:7] = True  # 6 true
    scores = overlap_scores(predicted, target)
    assert scores == {
        "dice": pytest.approx(6 / 10),
        "iou": pytest.approx(3 / 7),
        "sensitivity": pytest.approx(3 / 6),
        "specificity": pytest.approx(41 / 42),
        "precision": pytest.approx(3 / 4),
    }


def test_both_empty_is_perfect_and_one_empty_is_the_worst():
    some = EMPTY.copy()
    some[2, 3:5] = True
    assert set(overlap_scores(EMPTY, EMPTY).values()) == {1.0}
    assert centreline_dice(EMPTY, EMPTY) == 1.0
    assert surface_distance_95(EMPTY, EMPTY) == 0.0
    for predicted, target in ((some, EMPTY), (EMPTY, some)):
        scores = overlap_scores(predicted, target)
        worst = [scores[name] for name in ("dice", "iou", "sensitivity", "precision")]
        assert worst == [0, 0, 0, 0]
        assert centreline_dice(predicted, target) == 0.0
        assert surface_distance_95(predicted, target) == 10.0  # diagonal of 6 by 8


def test_centreline_dice_of_a_worked_example():
    # One-pixel lines are their own skeletons: 6 of 10 predicted lie on the target's 8, and back.
    predicted, target = np.zeros((5, 20), bool), np.zeros((5, 20), bool)
    predicted[2, 2:12] = True
    target[2, 6:14] = True
    precise, sensitive = 6 / 10, 6 / 8
    expected = 2 * precise * sensitive / (precise + sensitive)
    assert centreline_dice(predicted, target) == pytest.approx(expected)


def test_a_mask_that_is_too_thick_keeps_its_centreline_dice_but_not_its_dice():
    target, predicted = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    target[18:21, 5:55] = True
    predicted[16:23, 5:55] = True
    assert centreline_dice(predicted, target) > 0.93
    assert overlap_scores(predicted, target)["dice"] == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(6))
def test_dice_iou_and_hd95_agree_with_monai(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own
        from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

        predicted, target = blobs(seed), blobs(seed + 100)
        a, b = (torch.from_numpy(m)[None, None].float() for m in (predicted, target))
        dice, iou = float(compute_dice(a, b)), float(compute_iou(a, b))
        distance = float(compute_hausdorff_distance(a, b, include_background=True, percentile=95))
    scores = overlap_scores(predicted, target)
    assert scores["dice"] == pytest.approx(dice)
    assert scores["iou"] == pytest.approx(iou)
    assert surface_distance_95(predicted, target) == pytest.approx(distance, rel=1e-5)


def test_hd95_of_two_parallel_lines_is_their_distance():
    predicted, target = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    predicted[5, :], target[12, :] = True, True
    assert surface_distance_95(predicted, target) == 7.0


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_the_share_of_pairs_ranked_right_with_ties_half(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 6, 40) / 5
    target = rng.random(40) < 0.4
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, n in itertools.product(probabilities[target], probabilities[~target])
    ]
    scores = ranking_scores(probabilities.reshape(5, 8), target.reshape(5, 8))
    assert scores["auc"] == pytest.approx(np.mean(pairs))


def test_average_precision_of_a_worked_example():
    # Ranked: hit, miss, hit, miss. Precision at the hits is 1 and 2/3, each a step of one half.
    probabilities = np.array([[0.9, 0.8, 0.7, 0.1]])
    target = np.array([[True, False, True, False]])
    scores = ranking_scores(probabilities, target)
    assert scores["ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores["auc"] == pytest.approx(3 / 4)


def test_equal_probabilities_rank_as_chance():
    target = np.zeros((10, 10), bool)
    target[:2] = True
    scores = ranking_scores(np.full((10, 10), 0.3), target)
    assert scores == {"auc": pytest.approx(0.5), "ap": pytest.approx(0.2)}


def test_ranking_has_no_value_where_the_target_holds_one_class():
    assert all(math.isnan(v) for v in ranking_scores(np.random.rand(6, 8), EMPTY).values())


def test_patient_bootstrap_has_the_width_of_patients_not_of_images():
    # Patients of mean 0 and 1: a resample of two has mean 0, 1/2 or 1, each patient 100 times.
    values = np.repeat([0.0, 1.0], 100)
    patients = ["a"] * 100 + ["b"] * 100
    assert patient_interval(values, patients, 1000, seed=0) == (0.0, 1.0)
    own = [str(i) for i in range(200)]
    low, high = patient_interval(values, own, 2000, seed=0)
    # Binomial: standard error sqrt(0.25 / 200) = 0.0354.
    assert (low, high) == (pytest.approx(0.5 - 0.0693, abs=0.01), pytest.approx(0.5693, abs=0.01))


def test_patient_bootstrap_weighs_patients_by_their_images_and_skips_nan():
    values = np.array([1.0, 1.0, 1.0, 0.0, math.nan])
    interval = patient_interval(values, ["a", "a", "a", "b", "c"], 4000, seed=1)
    assert interval == (0.0, 1.0)
    assert patient_interval(values, ["a"] * 5, 100, seed=0) is None
    assert patient_interval(values, list("abcde"), 0, seed=0) is None
