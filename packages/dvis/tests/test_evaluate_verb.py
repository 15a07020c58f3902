"""`mlkit dvis evaluate` as a person types it."""

from __future__ import annotations

import json

import pytest
import torch

from mlkit_cli.main import main
from mlkit_dvis.assembly import to_rles

SIZE = (10, 40)


def strip(start, stop):
    mask = torch.zeros(SIZE[0] * SIZE[1], dtype=torch.bool)
    mask[start:stop] = True
    return to_rles(mask.view(1, *SIZE))[0]


A, B, C = strip(0, 100), strip(100, 200), strip(200, 300)


def row(video, category, *masks, score=0.9):
    return {"video_id": video, "category_id": category, "score": score, "segmentations": [*masks]}


@pytest.fixture
def annotations(tmp_path):
    """Write two videos of two frames, of categories 3 and 7; the frames are not there."""
    size = {"height": SIZE[0], "width": SIZE[1], "length": 2}
    videos = [
        {"id": number, "file_names": [f"{name}/0.jpg", f"{name}/1.jpg"], **size}
        for number, name in ((4, "reef"), (9, "wreck"))
    ]
    instances = [row(4, 7, A, A), row(9, 3, B, None)]
    listed = [{"id": i, "iscrowd": 0, **one} for i, one in enumerate(instances, 1)]
    categories = [{"id": 7, "name": "fish"}, {"id": 3, "name": "crab"}]
    path = tmp_path / "val.json"
    content = {"videos": videos, "annotations": listed, "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def say(annotations, tmp_path, capsys):
    def call(results, *arguments):
        path = tmp_path / "found.json"
        path.write_text(results if isinstance(results, str) else json.dumps(results))
        capsys.readouterr()
        code = main(["dvis", "evaluate", str(path), str(annotations), *arguments])
        return code, *capsys.readouterr()

    return call


def test_tables_tell_of_videos_classes_and_all_together(say):
    code, out, err = say([row(4, 7, A, A), row(9, 3, C, None)])
    assert code == 0, err
    videos, classes, total = (block.splitlines() for block in out.split("\n\n"))
    assert videos[0].split()[:4] == ["video", "frames", "tracks", "found"]
    assert [line.split()[:4] for line in videos[1:]] == [
        ["reef", "2", "1", "1"],
        ["wreck", "2", "1", "0"],
    ]
    assert [line.split() for line in classes] == [
        ["class", "ap", "ap50", "tracks"],
        ["crab", "0", "0", "1"],
        ["fish", "1", "1", "1"],
    ]
    assert ["ap", "0.5"] in [line.split() for line in total]
    assert ["ap_large", "-"] in [line.split() for line in total]


def test_json_holds_the_same_and_null_for_what_is_not_annotated(say):
    code, out, _ = say([row(4, 7, A, A)], "--json")
    said = json.loads(out)
    assert code == 0
    assert said["total"]["ap"] == pytest.approx(0.5)
    assert said["total"]["ap_large"] is None
    assert said["total"]["missed_frames"] == pytest.approx(1 / 3)
    assert [entry["class"] for entry in said["classes"]] == ["crab", "fish"]
    assert [entry["video"] for entry in said["videos"]] == ["reef", "wreck"]


def test_hota_is_told_where_it_is_asked_for(say):
    pytest.importorskip("trackeval", reason="needs the extra `hota`: TrackEval")
    results = [row(4, 7, A, A), row(9, 3, B, None), row(9, 3, C, C, score=0.2)]
    _, out, _ = say(results, "--hota", "--json")
    total = json.loads(out)["total"]
    assert [total[name] for name in ("hota", "deta", "assa")] == pytest.approx([1, 1, 1])
    _, out, _ = say(results, "--hota", "--score", "0.1", "--json")
    assert json.loads(out)["total"]["deta"] == pytest.approx((1 + 1 / 3) / 2)
    _, out, _ = say(results, "--json")
    assert "hota" not in json.loads(out)["total"]


def test_rows_of_equal_masks_and_two_labels_are_one_identity(say):
    _, out, _ = say([row(4, 3, A, A), row(4, 7, A, A, score=0.5)], "--json")
    assert json.loads(out)["total"]["switches"] == 0


def tracks_json(path="videos/wreck.mp4"):
    classes = [{"id": 1, "name": "fish"}, {"id": 2, "name": "crab"}]
    return {
        "video": {"id": 1, "path": path},
        "model": {"classes": classes},
        "tracks": [],
        "results": [row(1, 2, B, None)],
    }


def test_a_tracks_file_is_of_the_video_and_the_classes_of_its_names(say):
    code, out, err = say(tracks_json(), "--json")
    assert code == 0, err
    said = json.loads(out)
    assert [entry["video"] for entry in said["videos"]] == ["wreck"]
    assert said["total"]["ap"] == pytest.approx(1)
    assert "1 others left out" in say(tracks_json())[2]


def test_a_tracks_file_of_another_video_is_refused(say):
    code, _, err = say(tracks_json("elsewhere.mp4"))
    assert code == 2
    assert "0 annotated videos are named 'elsewhere'" in err


def test_every_wrong_row_is_told_by_its_number(say):
    results = [
        row(4, 7, A, A),
        row(5, 7, A, A),
        row(4, 8, A, A),
        row(9, 3, A),
        row(9, 3, {"size": [3, 3], "counts": "9"}, None),
        row(9, 3, A, A, score="high"),
        "track",
        {"video_id": 9, "category_id": 3, "score": 0.5},
    ]
    code, out, err = say(results)
    assert (code, out) == (2, "")
    for words in (
        "results[1]: video_id 5 is none of the annotations'",
        "results[2]: category_id 8 is none of the annotations'",
        "results[3]: it has 1 segmentations, video 9 has 2 frames",
        "results[4]: frame 0: run lengths are of size [3, 3]",
        "results[5]: score: expected a number, got 'high'",
        "results[6]: expected an object, got 'track'",
        "results[7]: segmentations: expected a list, got None",
    ):
        assert words in err
    assert "results[0]" not in err


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not a readable JSON"), ("{}", "no results"), ("3", "no results")],
)
def test_a_file_that_holds_no_results_is_refused(say, content, words):
    code, _, err = say(content)
    assert code == 2
    assert words in err


def test_a_file_that_does_not_exist_is_refused(annotations, tmp_path, capsys):
    missing = tmp_path / "none.json"
    assert main(["dvis", "evaluate", str(missing), str(annotations)]) == 2
    assert main(["dvis", "evaluate", str(annotations), str(missing)]) == 2
    assert capsys.readouterr().err.count("none.json: no such file") == 2


def test_no_results_at_all_are_a_score_of_zero(say):
    code, out, _ = say([], "--json")
    assert code == 0
    assert json.loads(out)["total"]["ap"] == 0
