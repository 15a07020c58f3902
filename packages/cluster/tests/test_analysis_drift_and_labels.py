"""Drift of a batch, and labels that a detector contradicts."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from mlkit_cluster.analysis.findings import (
    Boxes,
    LabelThresholds,
    box_ious,
    drift,
    suspicious_labels,
)
from mlkit_core.errors import InputError

# The package's own name `drift` is the function.
drift_module = importlib.import_module("mlkit_cluster.analysis.findings.drift")


def points(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, 4)) + shift


def losses_of(batch, reference):
    return cdist(batch, reference) + 0.1


def test_drift_compares_nearest_losses_as_scipy_does():
    reference, batch = points(80, 0), points(30, 1, 0.7)
    own, rows = losses_of(reference, reference), losses_of(batch, reference)
    found = drift(rows, own)
    left_out = (own + np.where(np.eye(80), np.inf, 0)).min(1)
    assert np.allclose(found.losses, rows.min(1), atol=1e-6)
    assert np.array_equal(found.nearest, rows.argmin(1))
    assert np.allclose(found.reference, left_out, atol=1e-6)
    expected = ks_2samp(rows.min(1), left_out)
    assert found.ks == pytest.approx(expected.statistic)
    assert found.ks_p == pytest.approx(expected.pvalue)
    assert found.threshold == pytest.approx(np.percentile(left_out, 95), rel=1e-6)
    assert found.above == pytest.approx((rows.min(1) > np.percentile(left_out, 95)).mean())


def test_a_shifted_batch_drifts_and_its_p_is_the_smallest_there_is():
    reference = points(120, 0)
    rows = losses_of(points(40, 1, 4.0), reference)
    found = drift(rows, losses_of(reference, reference), splits=199)
    assert found.above > 0.9
    assert found.ks_split_p == found.above_split_p == pytest.approx(1 / 200)


def test_a_batch_of_the_same_kind_is_rarely_called_drift():
    # 40 pairs of reference and batch from one distribution: the share of p <= 0.1 must be near 0.1.
    p_values = []
    for seed in range(40):
        reference, batch = points(60, 2 * seed), points(20, 2 * seed + 1)
        rows, own = losses_of(batch, reference), losses_of(reference, reference)
        p_values.append(drift(rows, own, splits=99, seed=seed).ks_split_p)
    assert np.mean(np.array(p_values) <= 0.1) <= 0.25
    assert np.mean(p_values) > 0.35


def test_references_without_predictions_are_never_the_nearest():
    reference = points(30, 0)
    rows, own = losses_of(points(5, 1), reference), losses_of(reference, reference)
    rows[:, 7] = own[:, 7] = np.nan
    found = drift(rows, own)
    assert 7 not in found.nearest
    assert np.isfinite(found.reference).all()
    assert 0 < found.ks_split_p <= 1
    # The same as without column 7, but for what image 7 itself loses.
    kept = np.delete(np.arange(30), 7)
    assert np.allclose(found.losses, drift(rows[:, kept], own[np.ix_(kept, kept)]).losses)


def test_a_batch_larger_than_the_reference_is_compared_with_halves():
    reference = points(20, 0)
    found = drift(losses_of(points(70, 1), reference), losses_of(reference, reference))
    assert found.losses.shape == (70,)
    assert 0 < found.ks_split_p <= 1


def test_how_many_nearest_are_kept_changes_nothing(monkeypatch):
    reference = points(40, 0)
    rows, own = losses_of(points(15, 1), reference), losses_of(reference, reference)
    own[:, 3] = np.nan
    np.fill_diagonal(own, 0)  # never the nearest to itself
    whole = drift(rows, own)
    monkeypatch.setattr(drift_module, "_NEAREST_KEPT", 1)
    few = drift(rows, own)
    assert few.ks_split_p == whole.ks_split_p
    assert few.above_split_p == whole.above_split_p


def test_drift_is_repeatable():
    reference = points(50, 0)
    rows, own = losses_of(points(9, 1), reference), losses_of(reference, reference)
    assert drift(rows, own, seed=3).ks_split_p == drift(rows, own, seed=3).ks_split_p


@pytest.mark.parametrize(
    ("batch", "reference", "splits", "message"),
    [
        (np.ones((2, 5)), np.ones((6, 6)), 200, r"expected \[M, 6\]"),
        (np.ones((0, 6)), np.ones((6, 6)), 200, "M > 0"),
        (np.ones((2, 3)), np.ones((3, 3)), 200, "at least 4 images, got 3"),
        (np.ones((2, 6)), np.ones((6, 6)), 10, "at least 19, got 10"),
        (np.full((2, 6), np.nan), np.ones((6, 6)), 200, "batch: image 0 has no known loss"),
        (np.ones((2, 6)), np.full((6, 6), np.nan), 200, "reference: image 0"),
    ],
)
def test_drift_refuses_what_it_cannot_compare(batch, reference, splits, message):
    with pytest.raises(InputError, match=message):
        drift(batch, reference, splits=splits)


def boxes(*rows, scored=True):
    """Rows of image, class, score and corners; labels have no score."""
    table = np.array(rows, float).reshape(-1, 7 if scored else 6)
    scores = table[:, 2] if scored else None
    return Boxes(table[:, 0].astype(int), table[:, -4:], table[:, 1].astype(int), scores)


def labels(*rows):
    return boxes(*rows, scored=False)


def test_ious_are_those_by_hand():
    found = box_ious(np.array([[0, 0, 10, 10], [3, 3, 3, 3]]), np.array([[5, 0, 15, 10]]))
    assert found.tolist() == [[pytest.approx(50 / 150)], [0]]
    assert box_ious(np.zeros((2, 4)), np.zeros((3, 4))).tolist() == [[0, 0, 0]] * 2


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_ious_are_symmetric_and_between_0_and_1(seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 20, (2, 5, 2, 2)), axis=2).reshape(2, 5, 4)
    found = box_ious(*corners)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(found, box_ious(corners[1], corners[0]).T)


def test_a_confident_prediction_without_label_is_a_missing_label():
    predictions = boxes(
        (0, 1, 0.9, 0, 0, 10, 10),  # labelled
        (0, 2, 0.8, 50, 50, 60, 60),  # not labelled
        (0, 2, 0.4, 80, 80, 90, 90),  # not labelled, not sure
        (0, 1, 0.6, 0, 5, 10, 15),  # IoU 1/3 with the label
    )
    found = suspicious_labels(predictions, labels((0, 1, 0, 0, 10, 10)), [0])
    assert [(f.kind, f.row, f.predicted, f.label) for f in found] == [
        ("missing label", 1, 2, None),
        ("missing label", 3, 1, None),
    ]
    assert found[0].score == pytest.approx(0.8)
    assert found[0].box_xyxy == (50, 50, 60, 60)
    assert found[1].score == pytest.approx(0.6 * (1 - 1 / 3))
    assert found[1].formula == "confidence * (1 - iou)"


def test_a_label_that_another_class_covers_has_the_wrong_class():
    predictions = boxes((3, 7, 0.9, 0, 0, 10, 10), (3, 8, 0.95, 0, 0, 10, 8))
    (found,) = suspicious_labels(predictions, labels((3, 5, 0, 0, 10, 10)), [3])
    assert (found.kind, found.image, found.label, found.predicted) == ("wrong class", 3, 5, 7)
    assert found.score == pytest.approx(0.9)
    assert found.formula == "confidence * iou"


def test_a_match_of_the_right_class_clears_a_label_and_a_prediction():
    clears_the_label = boxes((0, 7, 0.9, 0, 0, 10, 10), (0, 5, 0.3, 0, 0, 10, 9))
    assert suspicious_labels(clears_the_label, labels((0, 5, 0, 0, 10, 10)), [0]) == []
    # The prediction is of the person, who stands before the horse.
    both = labels((0, 5, 0, 0, 10, 10), (0, 7, 0, 0, 10, 9))
    assert suspicious_labels(boxes((0, 7, 0.9, 0, 0, 10, 10)), both, [0]) == []


def test_a_label_that_no_prediction_touches_is_spurious():
    given_labels = labels((0, 1, 0, 0, 10, 10), (0, 1, 40, 40, 50, 50), (1, 2, 0, 0, 5, 5))
    predictions = boxes((0, 9, 0.3, 0, 0, 10, 2))  # IoU 0.2 with the first, of any class
    found = suspicious_labels(predictions, given_labels, [0, 1])
    assert [(f.kind, f.image, f.row, f.score) for f in found] == [
        ("spurious label", 0, 1, 1),
        ("spurious label", 1, 2, 1),
    ]
    assert found[0].formula == "1 - iou"


def test_images_without_known_labels_are_not_looked_at_but_empty_ones_are():
    predictions = boxes((0, 1, 0.9, 0, 0, 9, 9), (1, 1, 0.8, 0, 0, 9, 9))
    found = suspicious_labels(predictions, labels(), [1])
    assert [(f.kind, f.image) for f in found] == [("missing label", 1)]
    assert suspicious_labels(predictions, labels(), []) == []


def test_every_threshold_changes_what_is_found():
    predictions = boxes((0, 1, 0.6, 0, 0, 10, 10), (1, 2, 0.6, 0, 0, 10, 10))
    given_labels = labels((0, 1, 0, 0, 10, 4), (1, 3, 0, 0, 10, 10))  # IoU 0.4 and 1

    def kinds(**limits):
        found = suspicious_labels(predictions, given_labels, [0, 1], LabelThresholds(**limits))
        return [(f.kind, f.image) for f in found]

    assert kinds() == [("missing label", 0), ("wrong class", 1)]
    assert kinds(missing_confidence=0.7) == [("wrong class", 1)]
    assert kinds(missing_iou=0.3) == [("wrong class", 1)]
    assert kinds(wrong_confidence=0.7) == [("missing label", 0)]
    assert kinds(wrong_iou=1.1) == [("missing label", 0)]
    assert ("spurious label", 0) in kinds(spurious_iou=0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_findings_keep_to_their_definitions_and_are_sorted(seed):
    rng = np.random.default_rng(seed)

    def some(count):
        low = rng.integers(0, 12, (count, 2))
        return np.concatenate([low, low + rng.integers(1, 8, (count, 2))], axis=1)

    predictions = Boxes(rng.integers(0, 4, 12), some(12), rng.integers(0, 3, 12), rng.random(12))
    given_labels = Boxes(rng.integers(0, 4, 9), some(9), rng.integers(0, 3, 9))
    found = suspicious_labels(predictions, given_labels, range(4))
    assert len({(f.kind, f.row) for f in found}) == len(found)
    ious = box_ious(predictions.boxes_xyxy, given_labels.boxes_xyxy)
    ious *= predictions.images[:, None] == given_labels.images
    missing = (predictions.scores >= 0.5) & (ious.max(1) < 0.5)
    spurious = ious.max(0) < 0.1
    assert (
        sorted(f.row for f in found if f.kind == "missing label")
        == np.flatnonzero(missing).tolist()
    )
    assert (
        sorted(f.row for f in found if f.kind == "spurious label")
        == np.flatnonzero(spurious).tolist()
    )
    for f in found:
        assert 0 <= f.score <= 1
        if f.kind == "wrong class":
            assert ious[:, f.row].max() >= 0.5
            right = predictions.labels == given_labels.labels[f.row]
            assert ious[right, f.row].max(initial=0) < 0.5
            assert f.predicted != f.label
    per_kind = [[f.score for f in found if f.kind == kind] for kind in {f.kind for f in found}]
    assert all(scores == sorted(scores, reverse=True) for scores in per_kind)


def test_predictions_without_scores_and_ragged_boxes_are_refused():
    with pytest.raises(InputError, match="need scores"):
        suspicious_labels(labels(), labels(), [0])
    with pytest.raises(InputError, match=r"expected \[2, 4\]"):
        Boxes(np.zeros(2, int), np.zeros((3, 4)), np.zeros(2, int))
    with pytest.raises(InputError, match=r"expected scores \[1\]"):
        Boxes(np.zeros(1, int), np.zeros((1, 4)), np.zeros(1, int), np.zeros(2))
