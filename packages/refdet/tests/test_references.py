"""Reference sets as files, and the whole road from training to finding."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_cli.main import main
from mlkit_core import load_run
from mlkit_core.errors import DataError, InputError
from mlkit_core.report.video import VideoWriter
from mlkit_refdet.episodes.example import example
from mlkit_refdet.features import SupportFeatures
from mlkit_refdet.references.enrolling import enroll, load_finder
from mlkit_refdet.references.reference_set import (
    ReferenceSet,
    load_reference_set,
    reference_set,
)
from mlkit_refdet.search.config import SearchOptions, TrackOptions
from mlkit_refdet.search.finding import Request, find
from mlkit_refdet.search.searching import Searcher
from mlkit_refdet.search.sources import open_source
from mlkit_refdet.search.thresholds import track_options

RUN_FILE = """
name: tiny
seed: 1
data:
  name: reference-frames
  root: data
  val_fold: [1, 3]
  n_way: 2
  n_query: 1
  shots: 2
  backgrounds: 1
  bank: true
  episodes: 2
  query_size: 96
  support_size: 64
  query_augment: false
  support_augment: none
model:
  encoders:
    query: {name: yolo-query, weights: none, dim: 16}
    support: {name: yolo-reference, weights: none, dim: 16, tokens: 2}
    asked: {name: asked-classes}
  fusion: {name: cheaf, "on": query, by: support}
  head: {name: dual, hidden: 16, conf: 0.0}
losses:
  - {name: box-iou, weight: 7.5}
  - {name: anchor-bce, weight: 0.5}
  - {name: box-dfl, weight: 1.5}
  - {name: region-infonce}
metrics: [{name: box-map}, {name: false-alarms}]
trainer: {epochs: 1, batch_size: 1, monitor: box-map.map50}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run trained for two steps on coloured squares."""
    folder = tmp_path_factory.mktemp("run")
    example(folder)
    (folder / "tiny.yaml").write_text(RUN_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = load_run("tiny.yaml")
        made.fit()
    made.folder = folder / made.folder
    return made


def features(n=2, k=3):
    valid = torch.ones(n, k, dtype=torch.bool)
    valid[1, 2] = False
    generator = torch.Generator().manual_seed(0)
    return SupportFeatures(
        maps={"p3": torch.zeros(n * k, 4, 2, 2)},
        vector=torch.randn(n * k, 4, generator=generator),
        valid=valid,
        protos={"p3": torch.randn(n * k, 8, generator=generator)},
        level_tokens={"p3": torch.randn(n * k, 4, 8, generator=generator)},
    )


def test_a_set_survives_its_file_without_maps(tmp_path):
    encoder = torch.nn.Linear(3, 2)
    made = reference_set(features(), ["Bag", "Ünder <b>"], encoder)
    made.save(tmp_path / "a.refset")
    read = load_reference_set(tmp_path / "a.refset")
    assert read.names == ("Bag", "Ünder <b>")
    assert read.features.maps == {}
    torch.testing.assert_close(read.features.protos["p3"], features().protos["p3"])
    torch.testing.assert_close(read.features.valid, features().valid)
    read.check(encoder)


def test_a_set_is_stale_once_its_encoder_has_moved():
    encoder = torch.nn.Linear(3, 2)
    made = reference_set(features(), ["a", "b"], encoder)
    made.check(encoder)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(InputError, match="another encoder, or by other weights"):
        made.check(encoder)


def test_names_must_fit_the_objects():
    with pytest.raises(InputError, match=r"valid \(2, 3\) for 1 objects"):
        ReferenceSet(features(), ("one",), "x")


@pytest.mark.parametrize("content", [b"", b"no tensors"])
def test_a_file_that_is_no_set_is_refused(tmp_path, content):
    (tmp_path / "a.refset").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a reference set"):
        load_reference_set(tmp_path / "a.refset")
    with pytest.raises(InputError, match="no such reference set"):
        load_reference_set(tmp_path / "b.refset")


def test_an_enrolled_set_finds_what_its_photos_find(run, tmp_path):
    finder = load_finder(run.folder)
    photos = run.folder.parents[1] / "data" / "references"
    made = enroll(finder, photos)
    assert made.names == tuple("abcdef")
    made.save(tmp_path / "all.refset")
    frame = np.asarray(Image.open(run.folder.parents[1] / "data" / "images" / "0.png"))
    search = Searcher(finder, load_reference_set(tmp_path / "all.refset"), SearchOptions(conf=0.0))
    (found,) = search([frame])
    assert {d.label for d in found} <= set(range(6))
    batch = next(finder.data.open({"query": _image(run), "support": photos}))
    with torch.no_grad():
        (expected,) = finder.model.head.decode(finder.model(batch).head, batch.meta)
    best = max(found, key=lambda d: d.score)
    assert best.score == pytest.approx(expected.scores[0].item(), abs=1e-5)
    assert best.box == pytest.approx(expected.boxes_xyxy[0].tolist(), abs=1e-3)


def _image(run):
    return run.folder.parents[1] / "data" / "images" / "0.png"


def test_finding_in_a_folder_of_images_writes_all_files(run, tmp_path):
    finder = load_finder(run.folder)
    known = enroll(finder, run.folder.parents[1] / "data" / "references" / "a")
    assert known.names == ("a",)
    source = open_source(str(run.folder.parents[1] / "data" / "images"))
    options, rules = SearchOptions(conf=0.0, stride=4), TrackOptions(high=0, low=0, min_frames=1)
    request = Request(source, tmp_path, known.names, options, rules)
    found = find(request, Searcher(finder, known, options))
    assert found["frames_searched"] == 4
    names = {path.name for path in tmp_path.iterdir()}
    wanted = {"journal.jsonl", "detections.json", "submission.json", "overlay.mp4", "contact.png"}
    assert wanted <= names
    assert json.loads((tmp_path / "submission.json").read_text())[0]["video_id"] == "images"


def test_predicting_by_the_common_verb_takes_photos_and_sets(run, tmp_path):
    photos = run.folder.parents[1] / "data" / "references"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.folder.parents[1])
        one = run.predict({"query": _image(run), "support": photos}, tmp_path / "one")
        enroll(load_finder(run.folder), photos).save(tmp_path / "all.refset")
        two = run.predict(
            {"query": _image(run), "support": tmp_path / "all.refset"}, tmp_path / "two"
        )
    first, second = (
        json.loads(next(p for p in w if p.suffix == ".json").read_text()) for w in (one, two)
    )
    assert first["annotations"] == second["annotations"]


def test_predicting_by_a_set_of_other_weights_is_refused(run, tmp_path, capsys):
    photos = run.folder.parents[1] / "data" / "references"
    finder = load_finder(run.folder)
    with torch.no_grad():
        next(finder.model.encoders["support"].parameters()).add_(0.1)
    enroll(finder, photos).save(tmp_path / "old.refset")
    roles = ["--input", f"query={_image(run)}", "--input", f"support={tmp_path / 'old.refset'}"]
    assert main(["predict", str(run.folder), *roles, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "old.refset: was made by another encoder, or by other weights" in said
    assert "`mlkit refdet enroll`" in said


def test_a_set_is_written_under_the_name_that_find_knows(run, tmp_path, capsys):
    photos = str(run.folder.parents[1] / "data" / "references")
    out = tmp_path / "x.safetensors"
    assert main(["refdet", "enroll", str(run.folder), photos, "-o", str(out)]) == 2
    assert "--out: expected a file ending in .refset, got" in capsys.readouterr().err
    assert not out.exists()


def test_shuffled_labels_change_no_prediction(run):
    finder = load_finder(run.folder)
    units = finder.data.units("val", 0)
    (batch,) = finder.data.collate([[finder.data.load(units[0][0])]])
    target = batch.target
    moved = type(target)(
        target.boxes_xyxy.flip(0) + 5,
        target.labels.flip(1),
        target.class_ids.flip(0),
        target.category_ids,
        ~target.background,
    )
    from dataclasses import replace

    for mode in (True, False):
        finder.model.train(mode)
        with torch.no_grad():
            torch.manual_seed(0)
            one = finder.model(batch).head.pairs.logits
            torch.manual_seed(0)
            two = finder.model(replace(batch, target=moved)).head.pairs.logits
        torch.testing.assert_close(one, two)
    finder.model.eval()


def test_photos_that_are_not_there_are_one_message(run, tmp_path):
    with pytest.raises(DataError, match="holds no photos"):
        enroll(load_finder(run.folder), tmp_path)
    with pytest.raises(InputError, match="not the folder of a run"):
        load_finder(tmp_path / "none")


def test_frames_searched_together_find_what_each_finds_alone(run):
    finder = load_finder(run.folder)
    known = enroll(finder, run.folder.parents[1] / "data" / "references")
    images = run.folder.parents[1] / "data" / "images"
    frames = [np.asarray(Image.open(images / f"{n}.png")) for n in range(3)]
    frames.append(np.ascontiguousarray(frames[0][:40]))  # sizes may differ
    together = Searcher(finder, known, SearchOptions(conf=0.0, batch=3))(frames)
    alone = Searcher(finder, known, SearchOptions(conf=0.0, batch=1))
    for frame, found in zip(frames, together, strict=True):
        (expected,) = alone([frame])
        assert found[0].box == pytest.approx(expected[0].box, abs=1e-2)
        assert [d.score for d in found] == pytest.approx([d.score for d in expected], abs=1e-4)


def test_the_verb_finds_photos_in_a_video_and_says_where(run, tmp_path, capsys):
    data = run.folder.parents[1] / "data"
    with VideoWriter(tmp_path / "film.mp4", 10) as writer:
        for number in range(6):
            writer.write(np.asarray(Image.open(data / "images" / f"{number}.png")))
    photos = str(data / "references")
    command = ["refdet", "find", str(tmp_path / "film.mp4"), "--run", str(run.folder)]
    given = ["--refs", photos, "-o", str(tmp_path / "a"), "--low", "0", "--high", "0", "--json"]
    assert main([*command, *given]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said["objects"]] == [*"abcdef"]
    assert said["frames_searched"] == 6
    assert (tmp_path / "a" / "overlay.mp4").stat().st_size > 0
    with Image.open(tmp_path / "a" / "contact.png") as sheet:
        assert sheet.height > 6 * 160
    assert (
        main(["refdet", "enroll", str(run.folder), photos, "-o", str(tmp_path / "x.refset")]) == 0
    )
    best = str(run.folder / "checkpoints" / "last")
    again = ["refdet", "find", str(tmp_path / "film.mp4"), "--run", best, *given[4:]]
    given = ["--refset", str(tmp_path / "x.refset"), "-o", str(tmp_path / "b")]
    capsys.readouterr()
    assert main([*again, *given]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["objects"] == said["objects"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--refs", "{empty}"], "holds no photos"),
        (["--refs", "{none}"], "no such folder of reference photos"),
        (["--refset", "{none}.refset"], "no such reference set"),
        (["--refset", "{image}"], "expected a folder of photos or a .refset file"),
        ([], "expected one of them, neither is given"),
        (["--refs", "{refs}", "--refset", "x.refset"], "expected one of them, both are given"),
        (["--refs", "{refs}", "--run", "{empty}"], "empty"),
        (["--refs", "{refs}", "--tiles", "7"], "--tiles: expected auto, off, or pixels"),
        (["--refs", "{refs}", "--checkpoint", "step-9"], "step-9"),
    ],
)
def test_what_cannot_work_is_one_message(run, tmp_path, capsys, given, message):
    (tmp_path / "empty").mkdir()
    names = {"empty": tmp_path / "empty", "none": tmp_path / "none"}
    names |= {"refs": run.folder.parents[1] / "data" / "references", "image": _image(run)}
    command = ["refdet", "find", str(_image(run)), "--run", str(run.folder), "-o", str(tmp_path)]
    assert main([*command, *(part.format(**names) for part in given)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]


def test_thresholds_come_from_the_runs_own_validation(run):
    finder = load_finder(run.folder)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    (value,) = [row for line in lines if (row := json.loads(line))["kind"] == "val"]
    score = value["false-alarms.score_fp10"]
    where = {"folder": run.folder, "provenance": finder.provenance}
    found = track_options(TrackOptions(), least=0.0, **where)
    assert (found.high, found.low) == pytest.approx((score, 0.4 * score))
    given = track_options(TrackOptions(high=0.7, max_gap=2), least=0.0, **where)
    assert (given.high, given.low, given.max_gap) == pytest.approx((0.7, 0.28, 2))
    assert track_options(TrackOptions(high=0.7, low=0.1), least=0.0, **where).low == 0.1
    assert track_options(TrackOptions(), least=0.9, **where).low == 0.9


def test_of_a_checkpoint_that_was_not_validated_thresholds_are_said_to_be_a_guess(run, caplog):
    unknown = {"checkpoint": "step-00000077", "stage": "main"}
    found = track_options(TrackOptions(), run.folder, unknown, least=0.0)
    assert (found.high, found.low) == pytest.approx((0.25, 0.1))
    assert "is a guess" in caplog.text


def test_a_data_set_becomes_one_submission(run, tmp_path, capsys):
    data = run.folder.parents[1] / "data"
    for name, frames in (("a_0", (0, 6)), ("b_1", (1, 7, 8))):
        folder = tmp_path / "set" / "samples" / name
        shutil.copytree(data / "references" / name[0], folder / "object_images")
        (folder / "frames").mkdir()
        for number, frame in enumerate(frames):
            shutil.copy(data / "images" / f"{frame}.png", folder / "frames" / f"{number:06d}.png")
    root, out = str(tmp_path / "set"), tmp_path / "out"
    command = ["refdet", "submit", root, "--run", str(run.folder), "-o", str(out), "--json"]
    assert main([*command, "--low", "0", "--high", "0", "--min-frames", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads((out / "submission.json").read_text()) == rows
    assert [row["video_id"] for row in rows] == ["a_0", "b_1"]
    frames = [b["frame"] for part in rows[1]["detections"] for b in part["bboxes"]]
    assert frames == [0, 1, 2]
    assert (out / "b_1" / "overlay.mp4").is_file()
    said = json.loads((out / "a_0" / "detections.json").read_text())
    assert [one["name"] for one in said["objects"]] == ["a_0"]
    shutil.rmtree(tmp_path / "set" / "samples" / "a_0" / "object_images")
    assert main(command) == 2
    assert "in a_0" in capsys.readouterr().err


def test_another_data_set_is_scored_under_its_own_names(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run.folder.parents[1] / "data", other)
    table = json.loads((other / "annotations.json").read_text())
    for row in table["categories"]:
        new = f"zebra_{row['name']}"
        (other / "references" / row["name"]).rename(other / "references" / new)
        row["name"] = new
    (other / "annotations.json").write_text(json.dumps(table))
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(run.folder, folder, symlinks=True)
    changed = [f"data.root={other}", f"data.val_root={other}", "data.val_fold=null"]
    found = load_run(folder, changed).evaluate("val")
    keys = {row["key"] for row in found.rows if row.get("metric") == "box-map"}
    assert keys == {f"zebra_{name}" for name in "abcdef"}
