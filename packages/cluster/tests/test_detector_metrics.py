"""Matches and metrics by hand, on crafted detections and labels."""

import numpy as np
import pytest

from mlkit_cluster.images.annotations import GroundTruth
from mlkit_cluster.images.categories import Supercategories
from mlkit_cluster.kernel.masks import encode_mask
from mlkit_cluster.yolo.detections import Detections
from mlkit_cluster.yolo.metrics import box_iou, image_metrics, match_boxes

GROUPS = Supercategories(("a", "b"), (0, 1, -1))
LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)


def predictions(*items, masks=None):
    boxes = np.array([box for box, _, _ in items], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label, _ in items], np.int32)
    scores = np.array([score for _, _, score in items], np.float32)
    return Detections(boxes, boxes, scores, labels, masks)


def truth(*items, masks=None):
    boxes = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    return GroundTruth(boxes, boxes, np.array([label for _, label in items], np.int32), masks)


def test_overlap_by_hand():
    found = box_iou(np.array([LEFT, (0, 0, 0, 0)]), np.array([(5, 0, 15, 10), RIGHT, (0, 0, 0, 0)]))
    np.testing.assert_allclose(found, [[50 / 150, 0, 0], [0, 0, 0]])


def test_matches_are_one_to_one_and_the_largest_overlap_comes_first():
    # The first detection overlaps both objects; its best is the second object, which leaves the
    # first object to nobody: two detections, two objects, of which the better pair is taken first.
    found = match_boxes(
        predictions(((0, 0, 10, 10), 0, 0.9), ((1, 0, 11, 10), 0, 0.8)),
        truth(((2, 0, 12, 10), 0), ((0, 0, 10, 11), 0)),
    )
    assert [(m.prediction, m.truth) for m in found] == [(0, 1), (1, 0)]
    assert [m.iou for m in found] == pytest.approx([100 / 110, 90 / 110])


def test_two_objects_and_one_detection_give_half_the_hits():
    # Both objects overlap the detection by more than half.
    found = image_metrics(predictions((LEFT, 0, 0.7)), truth((LEFT, 0), ((0, 0, 10, 8), 0)), GROUPS)
    assert (found["hit_freq"], found["precision"], found["n_match"]) == (0.5, 1.0, 1)
    assert found["mean_iou"] == 1.0


def test_the_right_box_of_the_wrong_class_is_no_hit():
    found = image_metrics(predictions((LEFT, 1, 0.7)), truth((LEFT, 0)), GROUPS)
    assert (found["hit_freq"], found["mean_iou"], found["precision"]) == (0, 0, 0)
    assert found["mean_conf"] == pytest.approx(0.7)
    assert found["mean_conf_matched"] is None


def test_confidence_is_the_mean_of_all_detections_and_of_the_matched():
    found = image_metrics(predictions((LEFT, 0, 0.8), (RIGHT, 1, 0.4)), truth((LEFT, 0)), GROUPS)
    assert found["mean_conf"] == pytest.approx(0.6)
    assert found["mean_conf_matched"] == pytest.approx(0.8)
    assert (found["n_gt"], found["n_pred"], found["n_match"]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("shown", "known", "expected"),
    [
        ((), (), {"mean_iou": 1, "hit_freq": 1, "precision": 1, "mean_conf": None}),
        ((), ((LEFT, 0),), {"mean_iou": 0, "hit_freq": 0, "precision": 0, "mean_conf": None}),
        (
            ((LEFT, 0, 0.5),),
            (),
            {"mean_iou": 0, "hit_freq": None, "precision": 0, "mean_conf": 0.5},
        ),
    ],
)
def test_nothing_shown_or_nothing_known(shown, known, expected):
    found = image_metrics(predictions(*shown), truth(*known), GROUPS)
    assert {name: found[name] for name in expected} == expected


def test_without_labels_only_detections_are_counted():
    found = image_metrics(predictions((LEFT, 0, 0.5), (RIGHT, 0, 0.3)), None, GROUPS)
    assert found.pop("mean_conf") == pytest.approx(0.4)
    assert found.pop("n_pred") == 2
    assert len(found) == 9
    assert set(found.values()) == {None}


def test_the_flag_is_the_most_frequent_class_the_lowest_of_several():
    found = image_metrics(predictions(), truth((LEFT, 1), (RIGHT, 1), (LEFT, 0)), GROUPS)
    assert (found["flag_cat"], found["flag_supercat"]) == (1, 1)
    found = image_metrics(predictions(), truth((LEFT, 2), (RIGHT, 1)), GROUPS)
    assert (found["flag_cat"], found["flag_supercat"]) == (1, 1)
    found = image_metrics(predictions(), truth((LEFT, 2)), GROUPS)
    assert (found["flag_cat"], found["flag_supercat"]) == (2, -1)
    found = image_metrics(predictions(), truth(), GROUPS)
    assert (found["flag_cat"], found["flag_supercat"]) == (-1, -1)


def test_dice_is_of_matched_masks():
    upper, whole = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    upper[:2] = True
    shown = predictions((LEFT, 0, 0.9), (RIGHT, 0, 0.9), masks=(encode_mask(upper),) * 2)
    known = truth((LEFT, 0), masks=(encode_mask(whole),))
    assert image_metrics(shown, known, GROUPS)["dice_score"] == pytest.approx(2 * 8 / 24)
    assert image_metrics(shown, truth((LEFT, 0)), GROUPS)["dice_score"] is None
    unmatched = truth((LEFT, 1), masks=(encode_mask(whole),))
    assert image_metrics(shown, unmatched, GROUPS)["dice_score"] is None
