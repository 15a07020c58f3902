import pytest
import torch

from mlkit_angioseg.metrics.overlap import MaskOverlap
from mlkit_angioseg.targets import VesselTarget
from mlkit_core.errors import DataError
from mlkit_core.types import (
    Batch,
    BoxPrediction,
    Letterbox,
    MaskPrediction,
    MaskTarget,
    SampleMeta,
)


def item(key, patient, target, probabilities, scale=0.5):
    size = tuple(target.shape)
    meta = SampleMeta(
        key=key,
        size=size,
        group=patient,
        letterbox=Letterbox(scale=scale, size=size),
        extra={"primary_angle_deg": -30.0},
    )
    batch = Batch(
        inputs={},
        meta=(meta,),
        kind="mask",
        target=VesselTarget(torch.zeros(1, 4, 4), original=(target,)),
    )
    return [MaskPrediction(probabilities)], batch


def big_and_thin():
    big = torch.zeros(32, 32, dtype=torch.bool)
    big[2:30, 2:30] = True
    thin = torch.zeros(32, 32, dtype=torch.bool)
    thin[16, 5:9] = True
    return [
        item("big", "P1", big, big * 0.9 + 0.05),
        item("thin", "P2", thin, torch.full((32, 32), 0.1)),
    ]


def test_a_perfect_big_vessel_does_not_hide_a_missed_thin_one():
    metric = MaskOverlap(resamples=0)
    for predictions, batch in big_and_thin():
        metric.update(predictions, batch)
    result = metric.compute()
    assert result["dice"] == 0.5  # pooled over pixels it would be 0.997
    assert result["cldice"] == 0.5
    assert (result["images"], result["patients"]) == (2, 2)


def test_rows_carry_what_a_report_needs():
    metric = MaskOverlap()
    for predictions, batch in reversed(big_and_thin()):
        metric.update(predictions, batch)
    rows = metric.rows()
    assert [(r["key"], r["patient"], r["dice"]) for r in rows] == [
        ("big", "P1", 1.0),
        ("thin", "P2", 0.0),
    ]
    assert rows[0]["primary_angle_deg"] == -30.0


def test_states_of_two_ranks_merge_to_what_one_rank_computes():
    whole, left, right, merged = (MaskOverlap(resamples=200) for _ in range(4))
    items = [*big_and_thin()] * 3
    for index, (predictions, batch) in enumerate(items):
        whole.update(predictions, batch)
        (left if index % 2 else right).update(predictions, batch)
    merged.merge(right.state())
    merged.merge(left.state())
    assert merged.compute() == whole.compute()


def test_the_interval_is_over_patients_and_fixed_by_the_seed():
    metric = MaskOverlap(resamples=500)
    for predictions, batch in big_and_thin():
        metric.update(predictions, batch)
    result = metric.compute()
    assert (result["dice_low"], result["dice_high"]) == (0.0, 1.0)
    assert metric.compute() == result


def test_one_patient_alone_has_no_interval():
    metric = MaskOverlap()
    metric.update(*big_and_thin()[0])
    assert not [name for name in metric.compute() if name.endswith("_low")]


def test_the_threshold_is_an_option():
    target = torch.ones(4, 4, dtype=torch.bool)
    faint = item("a", "P", target, torch.full((4, 4), 0.3))
    scores = {}
    for threshold in (0.2, 0.5):
        metric = MaskOverlap(threshold=threshold)
        metric.update(*faint)
        scores[threshold] = metric.compute()["dice"]
    assert scores == {0.2: 1.0, 0.5: 0.0}


def test_padding_half_of_the_input_changes_no_score():
    target = torch.zeros(8, 8)
    target[2:5] = 1
    probabilities = target.roll(1, 0) * 0.8 + 0.1
    results = []
    for above, below in ((0, 0), (0, 8), (3, 5)):
        masks = torch.nn.functional.pad(target, (0, 0, above, below))[None]
        box = Letterbox(scale=1.0, size=(8, 8), offset=(above, 0))
        meta = SampleMeta(key="a", size=(8, 8), letterbox=box)
        metric = MaskOverlap()
        metric.update(
            [MaskPrediction(probabilities)],
            Batch(inputs={}, meta=(meta,), target=MaskTarget(masks), kind="mask"),
        )
        results.append(metric.compute())
    assert results[0] == results[1] == results[2]


def test_a_resized_target_is_refused():
    meta = SampleMeta(key="f1", size=(8, 8), letterbox=Letterbox(scale=0.5, size=(4, 4)))
    batch = Batch(inputs={}, meta=(meta,), target=MaskTarget(torch.zeros(1, 4, 4)), kind="mask")
    with pytest.raises(DataError, match=r"f1: mask-overlap needs the mask at original resolution"):
        MaskOverlap().update([MaskPrediction(torch.zeros(8, 8))], batch)


def test_predictions_of_another_size_or_kind_are_refused():
    target = torch.ones(4, 4, dtype=torch.bool)
    _, batch = item("f2", "P", target, target.float())
    with pytest.raises(DataError, match=r"f2: prediction is \(2, 2\), target \(4, 4\)"):
        MaskOverlap().update([MaskPrediction(torch.zeros(2, 2))], batch)
    boxes = BoxPrediction(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
    with pytest.raises(DataError, match="f2: mask-overlap scores masks"):
        MaskOverlap().update([boxes], batch)


def test_the_best_threshold_is_that_of_the_greatest_mean_dice():
    generator = torch.Generator().manual_seed(3)
    images = []
    for key in ("a", "b", "c"):
        target = torch.rand(24, 24, generator=generator) < 0.2
        probabilities = 0.5 * torch.rand(24, 24, generator=generator) + 0.2 * target
        images.append(item(key, key, target, probabilities))
    images.append(item("d", "d", torch.zeros(24, 24, dtype=torch.bool), torch.zeros(24, 24)))
    scores = {}
    for step in range(1, 20):
        metric = MaskOverlap(threshold=step / 20, resamples=0)
        for predictions, batch in images:
            metric.update(predictions, batch)
        scores[step / 20] = metric.compute()["dice"]
    found = metric.compute()
    assert found["dice_at_best"] == pytest.approx(max(scores.values()))
    assert found["best_threshold"] == max(scores, key=lambda t: scores[t])
