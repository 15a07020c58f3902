"""`track-ap` on videos whose scores follow by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mlkit_core.errors import DataError, TrainingError
from mlkit_core.types import Batch, SampleMeta
from mlkit_dvis.assembly import to_rles
from mlkit_dvis.metrics.component import TrackAp
from mlkit_dvis.metrics.switches import identities
from mlkit_dvis.metrics.ytvis import mean_area, track_iou
from mlkit_dvis.results import InstanceTrack, TrackAnnotation, VideoTarget

SIZE = (10, 40)


def strip(start, stop, size=SIZE):
    """Return the run lengths of the pixels from `start` to `stop` in reading order."""
    if start == stop:
        return None
    mask = torch.zeros(size[0] * size[1], dtype=torch.bool)
    mask[start:stop] = True
    return to_rles(mask.view(1, *size))[0]


def found(*strips, score=0.9, label=0, row=0):
    return InstanceTrack(label, score, tuple(strips), row=row)


def true(*strips, label=0, crowd=False):
    return TrackAnnotation(label, tuple(strips), is_crowd=crowd)


def video(name, *tracks):
    return Batch(inputs={}, meta=(SampleMeta(key=name),), target=VideoTarget(tracks))


def scored(*videos, classes=1):
    metric = TrackAp(num_classes=classes)
    for number, (tracks, labelled) in enumerate(videos):
        metric.update(tracks, video(f"v{number}", *labelled))
    return metric.compute()


A, B, C = strip(0, 100), strip(100, 200), strip(200, 300)


def test_a_perfect_track_scores_one():
    values = scored(([found(A, B)], [true(A, B)]))
    names = ("ap", "ap50", "ap75", "ap_small", "ar1", "ar10")
    assert [values[name] for name in names] == pytest.approx([1] * 6)
    assert values["switches"] == values["missed_frames"] == 0
    assert values["videos"] == 1


def test_an_overlap_of_62_percent_counts_at_the_first_three_thresholds_only():
    values = scored(([found(strip(0, 62))], [true(A)]))
    assert values["ap"] == pytest.approx(0.3)
    assert values["ap50"] == pytest.approx(1)
    assert values["ap75"] == 0
    assert values["ar1"] == pytest.approx(0.3)


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_an_overlap_that_equals_a_threshold_counts(percent):
    levels = (percent - 50) // 5 + 1
    for frames in (1, 3, 7):  # in parts whose ratios no float holds
        edges = itertools.pairwise(np.linspace(0, 100, frames + 1).astype(int).tolist())
        pairs = [(strip(a, b), strip(min(a, percent), min(b, percent))) for a, b in edges]
        whole, part = zip(*pairs, strict=True)
        assert scored(([found(*part)], [true(*whole)]))["ap"] == pytest.approx(levels / 10)


def test_the_overlap_of_tracks_is_a_ratio_of_whole_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames = int(rng.integers(1, 9))
        ends = np.sort(rng.integers(0, 400, (2, frames, 2)), -1)
        ours, theirs = ([strip(int(a), int(b)) for a, b in side] for side in ends)
        low, high = ends[..., 0].max(0), ends[..., 1].min(0)
        both = int(np.maximum(high - low, 0).sum())
        union = int((ends[..., 1] - ends[..., 0]).sum()) - both
        assert track_iou([ours], [theirs])[0, 0] == (both / union if union else 0)


def test_a_duplicate_is_a_false_positive():
    tracks = [found(A, score=0.9), found(A, score=0.8), found(B, score=0.7)]
    values = scored((tracks, [true(A), true(B)]))
    # Recall 1/2 at precision 1 (51 of 101 points), recall 1 at precision 2/3.
    assert values["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_frame_without_mask_counts_as_an_empty_one():
    values = scored(([found(A, None)], [true(A, A)]))
    assert values["ap50"] == pytest.approx(1)  # 100 of 200 pixels
    assert values["ap"] == pytest.approx(0.1)
    lost = scored(([found(A, A, A)], [true(A, None, None)]))
    assert lost["ap50"] == 0  # 100 of 300 pixels


def test_a_video_without_results_is_not_dropped():
    values = scored(([found(A)], [true(A)]), ([], [true(A)]))
    assert values["ap"] == pytest.approx(51 / 101)
    assert values["ar10"] == pytest.approx(0.5)
    assert values["missed_frames"] == pytest.approx(0.5)


def test_a_false_track_in_a_video_without_annotations_counts():
    first = ([found(A, score=0.5)], [true(A)])
    values = scored(first, ([found(B, score=0.9)], []))
    assert values["ap"] == pytest.approx(0.5)


def test_average_precision_is_no_mean_over_videos():
    first = ([found(A, score=0.5)], [true(A)])  # alone: 1
    second = ([found(C, score=0.9), found(B, score=0.4)], [true(B)])  # alone: 1/2
    assert scored(first)["ap"] == pytest.approx(1)
    assert scored(second)["ap"] == pytest.approx(0.5)
    assert scored(first, second)["ap"] == pytest.approx(2 / 3)


def test_average_precision_is_a_mean_over_classes_that_are_annotated():
    annotations = [true(A, label=0), true(B, label=2)]
    tracks = [found(A, label=0), found(C, label=1), found(C, label=2)]
    assert scored((tracks, annotations), classes=4)["ap"] == pytest.approx(0.5)


def test_a_right_mask_under_a_wrong_label_is_no_hit():
    values = scored(([found(A, label=1)], [true(A, label=0)]), classes=2)
    assert values["ap"] == 0


def test_recall_at_one_takes_the_best_track_of_each_video_and_class():
    tracks = [found(A, score=0.2), found(B, score=0.9)]
    values = scored((tracks, [true(A), true(B)]))
    assert values["ar1"] == pytest.approx(0.5)
    assert values["ar10"] == 1


def test_the_worst_of_101_tracks_is_not_looked_at():
    tracks = [found(B, score=0.9) for _ in range(100)] + [found(A, score=0.1)]
    assert scored((tracks, [true(A)]))["ap"] == 0
    assert scored((tracks[1:], [true(A)]))["ap"] == pytest.approx(1 / 100)


def test_area_is_the_mean_over_visible_frames():
    small, medium, large = (strip(0, n, (400, 400)) for n in (100, 128**2 + 1, 256**2 + 1))
    assert mean_area([small, None, None, medium]) == (100 + 128**2 + 1) / 2
    for rle, name in ((small, "small"), (medium, "medium"), (large, "large")):
        values = scored(([found(rle, None)], [true(rle, None)]))
        scores = {area: values[f"ap_{area}"] for area in ("small", "medium", "large")}
        assert scores.pop(name) == pytest.approx(1)
        assert all(math.isnan(score) for score in scores.values())


def test_a_track_on_a_crowd_is_neither_right_nor_wrong():
    crowd = true(strip(200, 400), crowd=True)
    plain = [found(A, score=0.5)]
    inside = [found(strip(200, 250), score=0.9), found(strip(250, 300), score=0.8)]
    assert scored((plain + inside, [true(A), crowd]))["ap"] == pytest.approx(1)
    assert scored((plain + inside, [true(A)]))["ap"] == pytest.approx(1 / 3)


def test_a_crowd_is_not_to_be_found():
    values = scored(([], [true(A, crowd=True)]))
    assert math.isnan(values["ap"])
    assert math.isnan(values["missed_frames"])


def test_nothing_annotated_is_nan_and_not_zero():
    values = scored(([found(A)], []))
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10")
    assert all(math.isnan(values[name]) for name in names)
    assert math.isnan(values["missed_frames"])
    assert values["switches"] == 0


@pytest.mark.parametrize(
    ("rows", "switches", "missed"),
    [
        ([1, 1, 1, 1, 1], 0, 0),
        ([1, 1, 2, 2, 2], 1, 0),
        ([1, 1, 2, 1, 1], 2, 0),  # there and back
        ([1, 1, 0, 1, 1], 0, 1),  # lost, and found again as the same
        ([1, 1, 0, 2, 2], 1, 1),  # lost, and found again as another
        ([0, 0, 0, 0, 0], 0, 5),
    ],
)
def test_switches_of_one_instance(rows, switches, missed):
    tracks = [
        found(*(A if row == name else None for row in rows), row=name) for name in set(rows) - {0}
    ]
    kept = identities(tracks, [true(*[A] * 5)])
    assert (kept.switches, kept.missed, kept.visible) == (switches, missed, 5)


def test_two_instances_that_exchange_identities_are_two_switches():
    tracks = [found(A, A, B, B, row=1), found(B, B, A, A, row=2)]
    assert identities(tracks, [true(A, A, A, A), true(B, B, B, B)]).switches == 2


def test_a_row_that_still_follows_is_not_left_for_a_better_one():
    rough, exact = strip(0, 80), A
    tracks = [found(rough, rough, row=1), found(None, exact, row=2, score=1.0)]
    assert identities(tracks, [true(A, A)]).switches == 0


def test_a_row_with_two_labels_is_one_identity():
    tracks = [found(A, A, row=3, label=0), found(A, A, row=3, label=1, score=0.2)]
    kept = identities(tracks, [true(A, A, label=1)])
    assert (kept.switches, kept.missed) == (0, 0)


def test_tracks_that_name_no_row_are_identities_of_their_own():
    tracks = [found(A, A, B, B), found(B, B, A, A)]
    assert identities(tracks, [true(A, A, A, A), true(B, B, B, B)]).switches == 2


def test_switches_add_up_over_videos():
    one = ([found(A, None, row=1), found(None, A, row=2)], [true(A, A)])
    values = scored(one, one, ([], [true(A, A)]))
    assert values["switches"] == 2
    assert values["missed_frames"] == pytest.approx(2 / 6)


def test_rows_name_each_video_in_order():
    metric = TrackAp(num_classes=2)
    tracks = [found(A, A, row=1), found(C, C, row=2, score=0.4), found(C, C, row=3, score=0.2)]
    metric.update([], video("z", true(A)))
    metric.update(tracks, video("a", true(A, strip(0, 50)), true(B, None, label=1)))
    first, second = metric.rows()
    assert first == {
        "video": "a",
        "frames": "",
        "tracks": 2,
        "found": 1,
        "mean_iou": 0.375,  # 150 of 200 pixels, and 0
        "false_tracks": 1,  # of the two, the one that scores 0.3 or more
        "switches": 0,
        # B, and the second frame of A, whose overlap of one half is not more than one half
        "missed_frames": 2,
    }
    assert [second[name] for name in ("video", "tracks", "found", "mean_iou")] == ["z", 1, 0, 0]


def test_merging_ranks_in_any_order_gives_the_same_scores():
    videos = [
        ([found(A, score=0.5)], [true(A)]),
        ([found(C, score=0.5), found(B, score=0.5)], [true(B)]),
        ([found(B, score=0.5)], [true(A, label=1)]),
        ([], []),
    ]
    whole = scored(*videos, classes=2)
    states = []
    for number, (tracks, labelled) in enumerate(videos):
        metric = TrackAp(num_classes=2)
        metric.update(tracks, video(f"v{number}", *labelled))
        states.append(metric.state())
    for order in itertools.permutations(states):
        merged = TrackAp(num_classes=2)
        for state in order:
            merged.merge(state)
        values = merged.compute()
        assert values.keys() == whole.keys()
        np.testing.assert_array_equal(list(values.values()), list(whole.values()))


def test_a_target_that_is_no_video_is_refused():
    batch = Batch(inputs={}, meta=(SampleMeta(key="v"),), target=None)
    with pytest.raises(TrainingError, match="track-ap: expected the annotated tracks"):
        TrackAp(num_classes=1).update([], batch)


def squares(frames=4, side=8, column=1):
    masks = torch.zeros(frames, side, side, dtype=torch.bool)
    masks[:, 1:5, column : column + 3] = True
    return tuple(to_rles(masks))


def test_rows_that_nobody_would_see_neither_hide_a_miss_nor_switch():
    whole = squares()
    front = (*whole[:2], None, None)  # a good track that is lost half-way
    filler = (None, None, *whole[2:])
    found = [InstanceTrack(0, 0.9, front, row=1), InstanceTrack(0, 0.001, filler, row=2)]
    kept = identities(found, [TrackAnnotation(0, whole)])
    assert (kept.switches, kept.missed) == (0, 2)
    everything = identities(found, [TrackAnnotation(0, whole)], score=0.0)
    assert (everything.switches, everything.missed) == (1, 0)


@pytest.mark.parametrize(
    ("track", "said"),
    [
        (InstanceTrack(0, 0.9, squares(frames=3)), r"\[3, 4\] frames"),
        (InstanceTrack(0, 0.9, squares(side=9)), r"\(8, 8\), \(9, 9\)\] mask sizes"),
        (InstanceTrack(2, 0.9, squares()), r"labels \[2\], classes 2"),
    ],
)
def test_tracks_that_do_not_fit_the_video_are_refused(track, said):
    batch = Batch(
        inputs={},
        meta=(SampleMeta(key="clip"),),
        target=VideoTarget((TrackAnnotation(0, squares()),)),
    )
    with pytest.raises(DataError, match=f"clip: .*{said}"):
        TrackAp(2).update([track], batch)
