"""ST-IoU and the few-shot protocol, worked by hand."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Batch, BoxPrediction, SampleMeta
from mlkit_refdet.metrics.few_shot import FewShot, interval
from mlkit_refdet.metrics.st_iou import StIou
from mlkit_refdet.targets import ReferenceTarget

BOX = [0.0, 0.0, 10.0, 10.0]
HALF = [5.0, 0.0, 15.0, 10.0]  # IoU 1/3 with BOX
FAR = [50.0, 50.0, 60.0, 60.0]


def add(metric, true, found, *, label=0, shots=3, **extra):
    """One image asked about one class of two; `true` and `found` are boxes, or None."""
    target = ReferenceTarget(
        boxes_xyxy=torch.tensor([[true or BOX]]),
        labels=torch.tensor([[label if true else -1]]),
        class_ids=torch.arange(2),
        category_ids=torch.arange(2),
        background=torch.tensor([not true]),
    )
    batch = Batch(
        inputs={"asked": torch.tensor([[label]])},
        meta=(SampleMeta(key=str(sorted(extra.items())), extra=extra),),
        target=target,
        valid={"support": (torch.arange(3) < shots).repeat(2, 1)},
    )
    boxes = torch.tensor([box for box, _ in found]).reshape(-1, 4)
    scores = torch.tensor([score for _, score in found])
    labels = torch.full((len(found),), label)
    metric.update([BoxPrediction(boxes, scores, labels)], batch)


def test_st_iou_of_a_video_of_three_frames_is_the_one_worked_by_hand():
    metric = StIou(threshold=0.5)
    # The best box counts alone: IoU 1/3, though the second best would be perfect.
    add(metric, BOX, [(BOX, 0.6), (HALF, 0.9)], video_id="a", frame=0)
    add(metric, BOX, [(BOX, 0.4)], video_id="a", frame=1)  # below the threshold: missed
    add(metric, None, [(FAR, 0.7)], video_id="a", frame=2)  # a false alarm
    values = metric.compute()
    assert values["st_iou"] == pytest.approx((1 / 3) / 3)  # all three frames are true or found
    assert (values["precision"], values["recall"]) == (0.5, 0.5)


def test_a_box_on_a_frame_without_the_object_lowers_st_iou():
    clean, alarmed = StIou(), StIou()
    for metric in (clean, alarmed):
        add(metric, BOX, [(BOX, 0.9)], video_id="a", frame=0)
    add(clean, None, [], video_id="a", frame=1)
    add(alarmed, None, [(BOX, 0.9)], video_id="a", frame=1)
    assert clean.compute()["st_iou"] == 1.0
    assert alarmed.compute()["st_iou"] == 0.5


def test_a_video_with_nothing_to_find_is_perfect_if_nothing_is_found_and_worthless_else():
    metric = StIou()
    add(metric, None, [], video_id="quiet", frame=0)
    add(metric, None, [(BOX, 0.9)], video_id="noisy", frame=0)
    rows = {row["key"]: row for row in metric.rows()}
    assert (rows["quiet"]["st_iou"], rows["noisy"]["st_iou"]) == (1.0, 0.0)
    assert (rows["quiet"]["precision"], rows["noisy"]["precision"]) == ("", 0.0)
    assert metric.compute()["st_iou"] == 0.5
    assert "recall" not in metric.compute()  # no frame of any video shows the object


def test_long_and_short_videos_weigh_alike():
    metric = StIou()
    for frame in range(9):
        add(metric, BOX, [(BOX, 0.9)], video_id="long", frame=frame)
    add(metric, BOX, [], video_id="short", frame=0)
    assert metric.compute()["st_iou"] == 0.5
    assert metric.compute()["recall"] == 0.5


def test_a_box_that_misses_the_object_is_found_in_time_but_not_in_space():
    metric = StIou()
    add(metric, BOX, [(FAR, 0.9)], video_id="a", frame=0)
    values = metric.compute()
    assert (values["st_iou"], values["precision"], values["recall"]) == (0.0, 1.0, 1.0)


def test_two_objects_of_one_video_have_a_score_each():
    metric = StIou(classes=("cup", "hat"))
    for label, found in ((0, [(BOX, 0.9)]), (1, [])):
        add(metric, BOX, found, label=label, video_id="a", frame=0)
    assert {row["object"]: row["st_iou"] for row in metric.rows()} == {"cup": 1.0, "hat": 0.0}


def test_a_search_for_what_the_video_never_shows_is_no_video_of_its_own():
    metric = StIou()
    add(metric, BOX, [(HALF, 0.9)], label=0, video_id="a", frame=0)
    add(metric, None, [], label=1, video_id="a", frame=0)
    values = metric.compute()
    assert (values["st_iou"], values["silent"]) == (pytest.approx(1 / 3), 1.0)
    assert (values["videos"], len(metric.rows())) == (1.0, 2)


def test_st_iou_refuses_images_without_a_video_and_frames_that_come_twice():
    metric = StIou()
    with pytest.raises(DataError, match="has no video_id and frame"):
        add(metric, BOX, [], objects=1)
    for _ in range(2):
        add(metric, BOX, [], video_id="a", frame=7)
    with pytest.raises(DataError, match="a: frame 7 came twice"):
        metric.compute()


def _episodes(metric) -> None:
    """Episode 0: both classes found; 1: only class 0; 2: nothing found; 3: no object at all."""
    for episode, found in enumerate(((True, True), (True, False), (False, False))):
        for label, right in enumerate(found):
            boxes = [(BOX, 0.9)] if right else [(FAR, 0.9)]
            add(metric, BOX, boxes, label=label, episode=episode, row=label)
    add(metric, None, [(BOX, 0.9)], episode=3, row=0)


def test_few_shot_averages_episodes_and_gives_students_interval():
    metric = FewShot()
    _episodes(metric)
    values = metric.compute()
    means = [1.0, 0.5, 0.0]
    assert values["map50"] == pytest.approx(0.5)
    low, high = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem(means))
    assert (values["map50_low"], values["map50_high"]) == pytest.approx((low, high))
    assert (values["episodes"], values["shots"]) == (4.0, 3.0)
    rows = {row["key"]: row for row in metric.rows()}
    assert rows["0"]["map50"] == pytest.approx(2 / 3, abs=1e-4)
    assert rows["1"]["map50"] == pytest.approx(1 / 3, abs=1e-4)


def test_base_and_novel_classes_have_figures_of_their_own():
    metric = FewShot(novel=("hat",), classes=("cup", "hat"))
    _episodes(metric)
    values = metric.compute()
    assert values["map50_base"] == pytest.approx(2 / 3)
    assert values["map50_novel"] == pytest.approx(1 / 3)
    assert {row["key"]: row["classes"] for row in metric.rows()} == {"cup": "base", "hat": "novel"}


def test_a_novel_class_that_the_data_does_not_have_is_refused():
    with pytest.raises(BuildError, match="no class shoe; the data has cup, hat"):
        FewShot(novel=("shoe",), classes=("cup", "hat"))


def test_episodes_with_one_and_with_three_photos_are_told_apart():
    metric = FewShot()
    add(metric, BOX, [(FAR, 0.9)], episode=0, shots=1)
    add(metric, BOX, [(BOX, 0.9)], episode=1, shots=3)
    values = metric.compute()
    assert (values["map50_k1"], values["map50_k3"]) == (pytest.approx(0.0), pytest.approx(1.0))
    assert "shots" not in values


def test_an_image_of_no_episode_is_refused():
    with pytest.raises(DataError, match="is of no episode"):
        add(FewShot(), BOX, [])


def test_one_episode_has_no_interval():
    assert interval([0.4]) is None
    metric = FewShot()
    add(metric, BOX, [(BOX, 0.9)], episode=0)
    assert "map50_low" not in metric.compute()


@pytest.mark.parametrize("make", [StIou, FewShot])
def test_two_ranks_in_any_order_give_exactly_what_one_gives(make):
    whole = make()
    for frame in range(4):
        places = {"video_id": f"v{frame % 2}", "frame": frame, "episode": frame // 2}
        add(whole, BOX if frame else None, [(HALF if frame % 2 else BOX, 0.8)], **places)
    ranks = make(), make()
    for index, entry in enumerate(whole.state()):
        ranks[index % 2].merge([entry])
    merged = make()
    for rank in reversed(ranks):
        merged.merge(rank.state())
    assert merged.compute() == whole.compute()
    assert merged.rows() == whole.rows()
