"""Tiles and tracks: what single frames' detections become."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from mlkit_core.types import BoxPrediction
from mlkit_refdet.search.config import TrackOptions
from mlkit_refdet.search.motion import ConstantVelocity
from mlkit_refdet.search.temporal import (
    Detection,
    best_of_each_frame,
    iou,
    single_frames,
    tracks_of,
)
from mlkit_refdet.search.tiling import merged, windows


def moving(frames, score=0.8, label=0, speed=2.0):
    """Return a 20 px box that moves right, in the given frames."""
    return {
        f: [Detection((10 + speed * f, 10.0, 30 + speed * f, 30.0), score, label)] for f in frames
    }


@pytest.mark.parametrize("speed", [0.0, 2.0, 8.0])
def test_a_gap_of_five_frames_is_bridged_on_a_straight_line(speed):
    seen = [*range(6), *range(11, 16)]
    detections = {f: [] for f in range(16)} | moving(seen, speed=speed)
    (track,) = tracks_of(detections, TrackOptions(max_gap=5))
    assert sorted(track.boxes) == list(range(16))
    assert track.boxes[8] == pytest.approx((10 + 8 * speed, 10, 30 + 8 * speed, 30))
    assert 8 not in track.scores


def test_a_gap_of_one_more_frame_makes_two_tracks():
    detections = {f: [] for f in range(20)} | moving([*range(6), *range(12, 20)])
    assert len(tracks_of(detections, TrackOptions(max_gap=5))) == 2
    assert len(tracks_of(detections, TrackOptions(max_gap=6))) == 1


def test_a_blip_of_one_frame_is_dropped():
    detections = {f: [] for f in range(10)} | moving([4], score=0.99)
    assert tracks_of(detections, TrackOptions(min_frames=3)) == []
    assert len(tracks_of(detections, TrackOptions(min_frames=1))) == 1


def test_weak_detections_go_on_only_beside_a_strong_one():
    weak = {f: [] for f in range(8)} | moving(range(8), score=0.3)
    options = TrackOptions(high=0.5, low=0.2)
    assert tracks_of(weak, options) == []
    weak[3] = moving([3], score=0.6)[3]
    (track,) = tracks_of(weak, options)
    assert len(track.boxes) == 8
    assert track.score == pytest.approx((7 * 0.3 + 0.6) / 8)


def test_a_thing_that_moves_by_more_than_its_size_is_followed_by_the_buffer():
    detections = {f: [] for f in range(6)} | moving(range(6), speed=24.0)
    plain = TrackOptions(buffer=0, high=0.5)
    assert tracks_of(detections, plain) == []  # boxes of 20 px never overlap: six blips
    (track,) = tracks_of(detections, TrackOptions(buffer=0.5))
    assert len(track.scores) == 6


@pytest.mark.parametrize("kept", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("speed", [0.0, 1.0, 6.0])
def test_smoothing_loses_no_frame_of_an_object_that_is_mostly_seen(kept, speed):
    rng = np.random.default_rng(0)
    seen = [f for f in range(80) if rng.uniform() < kept]
    detections = {f: [] for f in range(80)} | moving(seen, speed=speed)
    found = best_of_each_frame(tracks_of(detections, TrackOptions()))
    assert {frame for frame, _ in found} >= set(seen)
    true = {f: moving([f], speed=speed)[f][0].box for f in range(80)}
    assert all(box == pytest.approx(true[frame]) for (frame, _), (box, _) in found.items())


def test_two_objects_keep_their_labels_where_they_cross():
    detections = {}
    for f in range(20):
        one = Detection((10.0 + 4 * f, 10, 30 + 4 * f, 30), 0.8, 0)
        two = Detection((90.0 - 4 * f, 10, 110 - 4 * f, 30), 0.8, 1)
        detections[f] = [one, two]
    tracks = tracks_of(detections, TrackOptions())
    assert [t.label for t in tracks] == [0, 1]
    assert tracks[0].boxes[19][0] == 86


def test_two_things_of_one_kind_that_pass_each_other_keep_their_ways():
    detections = {
        f: [
            Detection((10.0 + 6 * f, 10, 30 + 6 * f, 30), 0.8, 0),
            Detection((124.0 - 6 * f, 14, 144 - 6 * f, 34), 0.7, 0),
        ]
        for f in range(20)
    }
    tracks = tracks_of(detections, TrackOptions())
    assert sorted(t.boxes[19][0] for t in tracks) == [10.0, 124.0]
    assert {(t.boxes[0][0], t.boxes[19][0]) for t in tracks} == {(10.0, 124.0), (124.0, 10.0)}


def test_of_several_tracks_in_a_frame_the_better_one_counts():
    strong, weak = moving(range(5), 0.9), moving(range(5), 0.6, speed=0)
    weak = {f: [Detection((100.0, 50, 120, 70), 0.6, 0)] for f in weak}
    detections = {f: strong[f] + weak[f] for f in range(5)}
    best = best_of_each_frame(tracks_of(detections, TrackOptions()))
    assert len(best) == 5
    assert {score for _, score in best.values()} == {0.9}


def test_with_a_stride_frames_between_are_filled_and_short_tracks_counted_in_frames():
    detections = moving(range(0, 20, 4))
    (track,) = tracks_of(detections, TrackOptions(max_gap=0, min_frames=17), stride=4)
    assert sorted(track.boxes) == list(range(17))
    assert tracks_of(detections, TrackOptions(max_gap=0, min_frames=21), stride=4) == []


@pytest.mark.parametrize("stride", [3, 4, 12])
def test_with_a_stride_one_detection_is_a_blip_and_two_are_a_track(stride):
    one, two = moving([0]), moving([0, stride], speed=0.5)
    assert tracks_of(one, TrackOptions(), stride=stride) == []
    (track,) = tracks_of(two, TrackOptions(), stride=stride)
    assert sorted(track.boxes) == list(range(stride + 1))
    assert len(tracks_of(one, TrackOptions(min_frames=1), stride=stride)) == 1


def test_detections_of_unrelated_images_make_no_tracks():
    found = single_frames(moving(range(3)) | moving([3], score=0.1), 0.2)
    assert [list(track.boxes) for track in found] == [[0], [1], [2]]


def published_filter():
    """Return ultralytics' filter; its file alone, as the package around it wants an assigner."""
    package = Path(find_spec("ultralytics").submodule_search_locations[0])
    spec = spec_from_file_location("kalman_filter", package / "trackers/utils/kalman_filter.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KalmanFilterXYWH()


def test_motion_equals_ultralytics_kalman_filter():
    rng, theirs = np.random.default_rng(0), published_filter()
    centre, size = np.array([80.0, 60.0]), np.array([30.0, 20.0])
    box = (65.0, 50.0, 95.0, 70.0)
    ours = ConstantVelocity(box, position=1 / 20, velocity=1 / 160)
    mean, covariance = theirs.initiate(np.array([80.0, 60.0, 30.0, 20.0]))
    for step in range(30):
        mean, covariance = theirs.predict(mean, covariance)
        ours.step()
        if step % 4 != 3:  # sometimes nothing is seen
            centre += np.array([3.0, -1.0]) + rng.normal(0, 1, 2)
            seen = np.array([*centre, *(size + rng.normal(0, 1, 2))])
            mean, covariance = theirs.update(mean, covariance, seen)
            (x, y), (w, h) = seen[:2], seen[2:]
            ours.correct((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        x, y, w, h = mean[:4]
        expected = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        assert ours.box == pytest.approx(expected, abs=1e-9)


def test_overlap_equals_torchvisions():
    boxes = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) * 50
    boxes[:, 2:] += boxes[:, :2]
    expected = box_iou(boxes[:10], boxes[10:])
    for i in range(10):
        for j in range(10):
            value = iou(tuple(boxes[i].tolist()), tuple(boxes[10 + j].tolist()))
            assert value == pytest.approx(expected[i, j].item(), abs=1e-5)


def test_tiles_cover_the_frame_and_neighbours_overlap():
    found = windows(1080, 1920, 640, 0.2)
    assert found[0] == (0, 0, 1920, 1080)
    seen = np.zeros((1080, 1920), int)
    for left, top, right, bottom in found[1:]:
        assert (right - left, bottom - top) == (640, 640)
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    starts = sorted({w[0] for w in found[1:]})
    assert all(a + 640 - b >= 0.2 * 640 for a, b in pairwise(starts))
    assert windows(600, 600, 640, 0.2) == [(0, 0, 600, 600)]


def seen_by(box, places):
    """Return what each window sees of a box: the part within it, in its own pixels."""
    rows = []
    for left, top, right, bottom in places:
        part = [max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)]
        whole = part == list(box)
        own = [part[0] - left, part[1] - top, part[2] - left, part[3] - top]
        empty = part[2] <= part[0] or part[3] <= part[1]
        rows.append(
            BoxPrediction(
                torch.tensor([] if empty else [own], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([] if empty else [0.6 if whole else 0.9]),
                torch.tensor([] if empty else [0], dtype=torch.long),
            )
        )
    return rows


def test_an_object_is_found_once_and_whole_wherever_tiles_cut_it():
    places = windows(700, 1000, 400, 0.2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        size = torch.randint(10, 80, (2,), generator=generator)
        corner = torch.rand(2, generator=generator) * (torch.tensor([1000, 700]) - size)
        corner = corner.round()
        own = (*corner.tolist(), *(corner + size).tolist())
        found = merged(seen_by(own, places), places, (700, 1000))
        assert len(found.boxes_xyxy) == 1
        torch.testing.assert_close(found.boxes_xyxy[0], torch.tensor(own))


def at_an_inner_edge(whole_score):
    """Return what is left of a cut box of 0.95 in a tile, beside a box over most of the frame."""
    places = [(0, 0, 200, 100), (0, 0, 100, 100)]
    whole = BoxPrediction(
        torch.tensor([[2.0, 2.0, 198.0, 98.0]]), torch.tensor([whole_score]), torch.tensor([0])
    )
    cut = BoxPrediction(
        torch.tensor([[80.0, 40.0, 100.0, 60.0]]), torch.tensor([0.95]), torch.tensor([0])
    )
    return merged([whole, cut], places, (100, 200)).scores.tolist()


def test_a_cut_box_stays_where_a_box_of_less_than_half_its_score_covers_it():
    assert at_an_inner_edge(0.02) == pytest.approx([0.95, 0.02])
    assert at_an_inner_edge(0.47) == pytest.approx([0.95, 0.47])
    assert at_an_inner_edge(0.48) == pytest.approx([0.48])


def by_hand(boxes, scores, labels, least):
    """Suppress by the definition: best first, drop what overlaps a kept one of its class."""
    kept = []
    for row in sorted(range(len(scores)), key=lambda r: -scores[r]):
        clash = any(labels[row] == labels[k] and iou(boxes[row], boxes[k]) > least for k in kept)
        if not clash:
            kept.append(row)
    return kept


def test_merging_suppresses_within_each_class_as_by_hand():
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(60, 4, generator=generator) * 60
    boxes[:, 2:] = boxes[:, :2] + 20 + 10 * torch.rand(60, 2, generator=generator)
    scores = torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    found = merged([BoxPrediction(boxes, scores, labels)], [(0, 0, 100, 100)], (100, 100))
    rows = by_hand([tuple(b) for b in boxes.tolist()], scores.tolist(), labels.tolist(), 0.5)
    torch.testing.assert_close(found.boxes_xyxy, boxes[rows])
    torch.testing.assert_close(found.labels, labels[rows])
