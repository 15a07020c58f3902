"""`track-hota` on videos whose scores follow by hand."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from mlkit_core.errors import PluginError
from mlkit_core.types import Batch, SampleMeta
from mlkit_dvis.assembly import to_rles
from mlkit_dvis.metrics.hota import TrackHota
from mlkit_dvis.results import InstanceTrack, TrackAnnotation, VideoTarget

pytest.importorskip("trackeval", reason="needs the extra `hota`: TrackEval")
SIZE = (10, 40)


def strip(start, stop):
    mask = torch.zeros(SIZE[0] * SIZE[1], dtype=torch.bool)
    mask[start:stop] = True
    return to_rles(mask.view(1, *SIZE))[0]


A, B, C = strip(0, 100), strip(100, 200), strip(200, 300)


def found(*strips, score=0.9, label=0):
    return InstanceTrack(label, score, tuple(strips))


def true(*strips, label=0, crowd=False):
    return TrackAnnotation(label, tuple(strips), is_crowd=crowd)


def scored(*videos, classes=1):
    metric = TrackHota(num_classes=classes)
    for number, (tracks, labelled) in enumerate(videos):
        meta = (SampleMeta(key=f"v{number}"),)
        metric.update(tracks, Batch(inputs={}, meta=meta, target=VideoTarget(tuple(labelled))))
    return metric.compute()


def test_perfect_tracks_score_one():
    values = scored(([found(A, A), found(B, None)], [true(A, A), true(B, None)]))
    assert values == pytest.approx({"hota": 1, "deta": 1, "assa": 1})


def test_a_track_in_two_halves_is_detected_in_full_and_associated_by_half():
    values = scored(([found(A, A, None, None), found(None, None, A, A)], [true(A, A, A, A)]))
    # Each of 4 hits: 2 frames in common with its track, 4 annotated.
    assert values == pytest.approx({"hota": math.sqrt(0.5), "deta": 1, "assa": 0.5})


def test_a_false_track_halves_detection_and_leaves_association():
    values = scored(([found(A, A), found(C, C)], [true(A, A)]))
    assert values == pytest.approx({"hota": math.sqrt(0.5), "deta": 0.5, "assa": 1})


def test_an_overlap_of_62_percent_counts_at_12_of_19_thresholds():
    values = scored(([found(strip(0, 62))], [true(A)]))  # 0.05, 0.10, … 0.60
    assert values == pytest.approx(dict.fromkeys(("hota", "deta", "assa"), 12 / 19))


def test_a_track_of_a_low_score_does_not_count():
    values = scored(([found(A, A), found(C, C, score=0.29)], [true(A, A)]))
    assert values["hota"] == pytest.approx(1)


def test_a_video_without_results_is_not_dropped():
    values = scored(([found(A)], [true(A)]), ([], [true(A)]))
    assert values == pytest.approx({"hota": math.sqrt(0.5), "deta": 0.5, "assa": 1})


def test_classes_are_averaged_and_empty_ones_left_out():
    values = scored(([found(A)], [true(A), true(B, label=2)]), classes=4)
    assert values == pytest.approx({"hota": 0.5, "deta": 0.5, "assa": 0.5})


def test_a_mask_on_a_crowd_is_neither_right_nor_wrong():
    crowd = true(strip(200, 400), crowd=True)
    values = scored(([found(A), found(C)], [true(A), crowd]))
    assert values["hota"] == pytest.approx(1)
    assert scored(([found(A), found(C)], [true(A)]))["deta"] == pytest.approx(0.5)


def test_nothing_annotated_and_nothing_found_is_nan():
    assert all(math.isnan(value) for value in scored(([], [])).values())


def test_merging_ranks_in_any_order_gives_the_same_scores():
    videos = [([found(A)], [true(A)]), ([found(A)], [true(B)]), ([found(strip(0, 62))], [true(A)])]
    states = []
    for number, (tracks, labelled) in enumerate(videos):
        metric = TrackHota(num_classes=1)
        meta = (SampleMeta(key=f"v{number}"),)
        metric.update(tracks, Batch(inputs={}, meta=meta, target=VideoTarget(tuple(labelled))))
        states.append(metric.state())
    for order in itertools.permutations(states):
        merged = TrackHota(num_classes=1)
        for state in order:
            merged.merge(state)
        np.testing.assert_array_equal(
            list(merged.compute().values()), list(scored(*videos).values())
        )


def test_without_track_eval_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "trackeval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trackeval", None)
    with pytest.raises(PluginError, match="trackeval is not installed") as caught:
        TrackHota(num_classes=1)
    assert caught.value.hint == "pip install 'mlkit-dvis[hota]'"
