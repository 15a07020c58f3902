"""Which tracks are reported, what is said of them, and the file that says it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from mlkit_core.errors import InputError
from mlkit_dvis.drawing import Footage, TrackedVideo, class_labels, reported_tracks, track_rows
from mlkit_dvis.drawing.summaries import gaps, summarise
from mlkit_dvis.drawing.tracks_file import head, write_result
from mlkit_dvis.results import InstanceTrack, VideoResult

CLASSES = ("fish", "crab", "weed")
SIZE = (30, 41)


def square(left, top=5, side=4):
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    rle = coco.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def moving(label, score, row, lefts, weights=()):
    rles = tuple(None if left is None else square(left) for left in lefts)
    return InstanceTrack(label, score, rles, row, tuple(weights))


@pytest.fixture
def tracks():
    way = [None, 2, 4, None, None, 10, 12, None]
    return (
        moving(0, 0.9, 3, way, [0.05, 0.1, 0.3, 0.05, 0.05, 0.25, 0.15, 0.05]),
        moving(2, 0.8, 7, [20] * 8, [0.125] * 8),
        moving(1, 0.4, 3, way, [0.05, 0.1, 0.3, 0.05, 0.05, 0.25, 0.15, 0.05]),
        moving(1, 0.2, 9, [30] * 8),
    )


def test_score_and_class_choose_what_is_reported(tracks):
    chosen = reported_tracks(tracks, class_labels([], CLASSES), 0.3)
    assert [(t.row, t.label) for t in chosen] == [(3, 0), (7, 2), (3, 1)]
    fish = reported_tracks(tracks, class_labels(["crab"], CLASSES), 0.0)
    assert [(t.row, t.label) for t in fish] == [(3, 1), (9, 1)]


def test_a_score_that_is_met_exactly_is_reported(tracks):
    assert len(reported_tracks(tracks, {0, 1, 2}, 0.4)) == 3


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(InputError, match="no class 'fihs'") as caught:
        class_labels(["crab", "fihs"], CLASSES)
    assert "'fish'" in caught.value.hint
    with pytest.raises(InputError) as caught:
        class_labels(["zzz"], CLASSES)
    assert "fish, crab, weed" in caught.value.hint


def test_tracks_that_share_a_row_are_one_object_with_its_best_label(tracks):
    rows = track_rows(tracks, CLASSES)
    assert [(row.id, row.name) for row in rows] == [(3, "fish"), (7, "weed"), (9, "crab")]
    assert rows[0].others == ((1, 0.4),)
    assert rows[0].title == "fish #3 0.90"
    assert len({row.colour for row in rows}) == 3


def test_a_summary_by_hand(tracks):
    footage = Footage("reef.mp4", SIZE, 10.0, 8, stride=2)
    said = summarise(track_rows(tracks, CLASSES)[0], footage, CLASSES)
    assert said["other_labels"] == [{"class": "crab", "score": 0.4}]
    assert (said["first_frame"], said["last_frame"]) == (1, 6)
    assert (said["first_time_s"], said["last_time_s"]) == (0.2, 1.2)
    assert said["frames_visible"] == 4
    assert said["gaps"] == [[3, 4]]
    assert said["mean_area_px"] == 16
    assert said["distance_px"] == 10  # from left 2 to left 12
    assert said["speed_px_per_frame"] == 2  # 10 px in 5 frames, gap included
    assert said["speed_px_per_s"] == 10  # 5 tracked frames a second
    assert said["path"][0] == {"frame": 1, "x": 4.0, "y": 7.0}
    assert [p["frame"] for p in said["path"]] == [1, 2, 5, 6]
    assert [d["frame"] for d in said["deciding_frames"]] == [2, 5, 6, 1, 0]
    assert said["deciding_frames"][0] == {"frame": 2, "time_s": 0.4, "weight": 0.3}
    assert sum(said["class_weights"]) == pytest.approx(1)


def test_a_track_that_is_never_visible_has_a_summary_too():
    row = track_rows([moving(0, 0.5, 0, [None] * 3)], CLASSES)[0]
    said = summarise(row, Footage("x", SIZE, None, 3), CLASSES)
    assert said["first_frame"] is None
    assert said["frames_visible"] == 0
    assert said["path"] == []


def test_gaps_lie_between_the_first_and_the_last():
    assert gaps([2, 3, 6, 7, 9]) == [[4, 5], [8, 8]]
    assert gaps([4]) == []


def decoded(rle):
    with warnings.catch_warnings():  # pycocotools' own, under numpy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(rle)


def written(tmp_path, tracks, name="reef.mp4"):
    result = VideoResult(tracks, SIZE, 8)
    footage = Footage(name, SIZE, 25.0, 8)
    rows = track_rows(tracks, CLASSES)
    video = TrackedVideo(result, tracks, rows, footage, CLASSES, {"checkpoint": "step-9"}, list)
    path = tmp_path / "tracks.json"
    write_result(path, head(footage, video.provenance, CLASSES), video)
    return path


def test_the_file_comes_back_with_rows_as_ytvis_reads_them(tmp_path, tracks):
    path = written(tmp_path, tracks)
    said = json.loads(path.read_text(encoding="utf-8"))
    assert said["video"] == {
        "id": 1,
        "path": "reef.mp4",
        "height": 30,
        "width": 41,
        "fps": 25.0,
        "frames": 8,
        "stride": 1,
    }
    assert said["model"]["checkpoint"] == "step-9"
    assert said["model"]["classes"][2] == {"id": 3, "name": "weed"}
    assert len(said["results"]) == len(tracks) == 4
    for row, track in zip(said["results"], tracks, strict=True):
        assert set(row) == {"video_id", "score", "category_id", "segmentations"}
        assert (row["video_id"], row["category_id"]) == (1, track.label + 1)
        assert row["score"] == pytest.approx(track.score)
        assert len(row["segmentations"]) == 8
        for rle, known in zip(row["segmentations"], track.rles, strict=True):
            if known is None:
                assert rle is None
            else:
                np.testing.assert_array_equal(decoded(rle), decoded(known))
    assert [one["id"] for one in said["tracks"]] == [3, 7, 9]


def test_no_track_is_a_valid_file(tmp_path):
    said = json.loads(written(tmp_path, ()).read_text())
    assert (said["tracks"], said["results"]) == ([], [])


def test_odd_names_come_back(tmp_path, tracks):
    name = 'a "b" <c> \n рыба.mp4'
    assert json.loads(written(tmp_path, tracks, name).read_text("utf-8"))["video"]["path"] == name


def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(tmp_path, tracks):
    path = written(tmp_path, tracks)
    before = path.read_text()
    broken = (*tracks[:1], replace(tracks[1], score=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        written(tmp_path, broken)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
