"""False alarms by hand, and AUROC against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mlkit_core.types import Batch, BoxPrediction, SampleMeta
from mlkit_refdet.metrics import alarm_rates
from mlkit_refdet.metrics.false_alarms import FalseAlarms
from mlkit_refdet.metrics.matching import box_iou, hits
from mlkit_refdet.targets import ReferenceTarget

HERE, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def add(metric, key, found, *, present=False, objects=None, background=False, asked=(0,)):
    """One image asked about class 0, whose object (if it is there) is at `HERE`."""
    target = ReferenceTarget(
        boxes_xyxy=torch.tensor([[HERE]]),
        labels=torch.tensor([[0 if present else -1]]),
        class_ids=torch.arange(2),
        category_ids=torch.arange(2),
        background=torch.tensor([background]),
    )
    extra = {} if objects is None else {"objects": objects}
    batch = Batch(
        inputs={"asked": torch.tensor([list(asked)])},
        meta=(SampleMeta(key=key, extra=extra),),
        target=target,
    )
    boxes = torch.tensor([box for box, _ in found]).reshape(-1, 4)
    scores = torch.tensor([score for _, score in found], dtype=torch.float64)
    metric.update([BoxPrediction(boxes, scores, torch.zeros(len(found), dtype=torch.long))], batch)


def worked() -> FalseAlarms:
    """Ten images with the object, eight of them hit, and four without, two of each kind."""
    metric = FalseAlarms()
    for index in range(8):  # hits at .9, .8, … .2
        extra = [(FAR, 0.85)] if index == 0 else []
        add(metric, f"hit{index}", [(HERE, 0.9 - index / 10), *extra], present=True, objects=1)
    add(metric, "missed0", [(FAR, 0.95)], present=True, objects=1)
    add(metric, "missed1", [], present=True, objects=1)
    add(metric, "empty0", [(HERE, 0.45), (FAR, 0.35)], objects=0, background=True)
    add(metric, "empty1", [(HERE, 0.1)], objects=0, background=True)
    add(metric, "other0", [(HERE, 0.75), (FAR, 0.55), (FAR, 0.35)], objects=2)
    add(metric, "other1", [(HERE, 0.35)], objects=1)
    return metric


def test_the_thresholds_that_keep_a_share_of_the_own_hits_give_the_false_alarms_worked_by_hand():
    values = worked().compute()
    # Eight hits: 70 % are 5.6, so six; the sixth greatest is .4. 80 % are 6.4, so seven: .3.
    assert values["fp70_background"] == 1 / 2  # .45
    assert values["fp80_background"] == 2 / 2  # .45 and .35
    assert values["fp70_distractor"] == 2 / 2  # .75 and .55
    assert values["fp80_distractor"] == 4 / 2
    assert values["fp70_absent"] == 3 / 4


def test_the_score_of_a_tenth_of_a_false_alarm_is_the_least_with_no_more_of_them():
    values = worked().compute()
    # Four pairs without the object: a tenth of four is less than one, so none at all; the greatest
    # false alarm there is .75.
    assert values["score_fp10"] == np.nextafter(0.75, 1)
    alarms = np.array([0.9, 0.8, 0.8, 0.3])
    for budget in (0.1, 0.2, 0.3, 0.4):
        score = alarm_rates.score_at(alarms, 10, budget)
        assert np.count_nonzero(alarms >= score) <= budget * 10 + 1e-9
        less = np.nextafter(score, 0)
        assert score == 0 or np.count_nonzero(alarms >= less) > budget * 10
    assert alarm_rates.score_at(alarms, 10, 0.2) == np.nextafter(0.8, 1)  # both at .8 or none
    assert alarm_rates.score_at(alarms, 10, 0.4) == 0


def test_false_alarms_at_an_absolute_recall_count_misses_too():
    values = worked().compute()
    # Ten true boxes: a recall of .7 takes seven hits, the seventh greatest is .3.
    assert values["fp_recall70_background"] == 2 / 2
    assert values["fp_recall70_distractor"] == 4 / 2
    assert values["hits"] == 0.8
    # A recall of .8 takes all eight hits, threshold .2: .85, .95, two on background, four on
    # distractors are false alarms, over fourteen images.
    assert values["fppi_recall80"] == pytest.approx(8 / 14)


def test_recall_at_a_tenth_of_a_false_alarm_is_worked_by_hand():
    values = worked().compute()
    # Two pairs allow 0.2, so none: scores must exceed the greatest false alarm.
    assert values["recall_fp10_background"] == 5 / 10  # .9 to .5 exceed .45
    assert values["recall_fp10_distractor"] == 2 / 10  # .9 and .8 exceed .75
    hit, alarms = np.array([0.9, 0.6, 0.5, 0.2]), np.array([0.8, 0.55, 0.3])
    # Ten pairs allow one: everything above the second greatest, .55.
    assert alarm_rates.recall_at(hit, 5, alarms, 10, 0.1) == 2 / 5
    # Thirty allow three: there are no more than that, so every hit counts.
    assert alarm_rates.recall_at(hit, 5, alarms, 30, 0.1) == 4 / 5


def test_frames_with_any_box_at_all_are_counted_once():
    values = worked().compute()
    assert values["frames80_background"] == 1 / 2
    assert values["frames80_distractor"] == 2 / 2
    assert values["frames70_distractor"] == 1 / 2


def test_auroc_equals_scikit_learn_with_ties_and_with_pairs_where_nothing_was_found():
    rng = np.random.default_rng(0)
    present = np.round(rng.beta(3, 2, 60), 1)
    absent = np.round(rng.beta(2, 3, 90), 1)
    present[:5], absent[:40] = -np.inf, -np.inf
    labels = np.r_[np.ones(60), np.zeros(90)]
    theirs = roc_auc_score(labels, np.r_[present, absent].clip(-1))
    assert 0.6 < theirs < 0.95
    assert alarm_rates.auroc(present, absent) == pytest.approx(theirs, abs=1e-12)


def test_auroc_of_the_metric_compares_best_scores_of_pairs():
    best = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.95, -1.0]  # the tenth found nothing
    for name, absent in (("background", [0.45, 0.1]), ("distractor", [0.75, 0.35])):
        labels = [1] * len(best) + [0] * len(absent)
        theirs = roc_auc_score(labels, best + absent)
        assert worked().compute()[f"auroc_{name}"] == pytest.approx(theirs)


def test_kinds_of_absence_follow_what_is_known_of_the_image():
    metric = FalseAlarms()
    add(metric, "empty", [], objects=0)
    add(metric, "others", [], objects=3, background=True)  # none of the support's, but others
    add(metric, "said", [], background=True)
    add(metric, "unknown", [])
    add(metric, "seen", [], present=True, asked=(0, 1))  # class 0 is there, class 1 is not
    values = metric.compute()
    counts = {k: values[f"pairs_{k}"] for k in ("present", "background", "distractor", "unknown")}
    assert counts == {"present": 1.0, "background": 2.0, "distractor": 2.0, "unknown": 1.0}


def test_a_second_box_on_one_object_is_a_false_alarm_and_each_takes_its_best_object():
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], float)
    true = np.array([[0, 0, 10, 10], [20, 1, 30, 11]], float)
    assert hits(found, true).tolist() == [True, False, True]
    assert not hits(found, np.zeros((0, 4))).any()


def test_box_iou_is_that_of_areas_and_zero_for_boxes_without_area():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], float)
    assert box_iou(a, b).tolist() == [[50 / 150, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_rates_that_nothing_can_answer_are_left_out_with_a_word(caplog):
    metric = FalseAlarms()
    add(metric, "hit", [(HERE, 0.9)], present=True, objects=1)
    add(metric, "missed", [], present=True, objects=1)
    add(metric, "empty", [(HERE, 0.3)], objects=0)
    with caplog.at_level("INFO", logger="mlkit"):
        values = metric.compute()
    assert values["fp70_background"] == 0.0
    assert "fp_recall70_background" not in values  # recall ends at one half
    assert "auroc_distractor" not in values
    assert "fppi_recall80, fp_recall70_background" in caplog.text


def test_images_on_two_ranks_give_exactly_the_rates_of_one():
    whole = worked()
    ranks = FalseAlarms(), FalseAlarms()
    for index, image in enumerate(whole.state()):
        ranks[index % 2].merge([image])
    merged = FalseAlarms()
    for rank in reversed(ranks):
        merged.merge(rank.state())
    assert merged.compute() == whole.compute()
