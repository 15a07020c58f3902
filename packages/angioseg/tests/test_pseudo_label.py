"""Masks that a run makes, with where they came from, and training on them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_kit import write_cine
from PIL import Image

from mlkit_angioseg.cines.predicting import Wanted, predict_cine
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.importing.found import Wish
from mlkit_angioseg.importing.steps import Output, import_set
from mlkit_angioseg.phantom import write_phantom
from mlkit_angioseg.pseudo import labelling, record
from mlkit_angioseg.pseudo.labelling import Labelling, label_frames
from mlkit_angioseg.pseudo.record import measure_mask
from mlkit_cli.main import main
from mlkit_core import load_run
from mlkit_core.errors import DataError, InputError
from mlkit_core.weights import file_sha256

RUN_FILE = """
name: {name}
data: {data}
model:
  encoders:
    image: {{name: conv-stem, dim: 4, stride: 2, norm: group}}
    view: {{name: view-angle, dim: 8}}
  fusion: {{name: film, "on": image, by: view}}
  head: {{name: conv-mask, dim: 4, hidden: [4, 4], norm: group}}
losses: [{{name: bce}}]
metrics: [{{name: mask-overlap, resamples: 0}}]
trainer: {{epochs: 1, batch_size: 2, monitor: mask-overlap.dice}}
"""
TEACHER = "{name: angio-frames, root: data, size: 32, augment: false}"
LOW = 0.04  # an untrained mask head starts at the share of vessel pixels


def fitted(name, data):
    Path(f"{name}.yaml").write_text(RUN_FILE.format(name=name, data=data))
    run = load_run(f"{name}.yaml")
    run.fit()
    return run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run after one epoch on two phantoms, and the folder it lies in."""
    folder = tmp_path_factory.mktemp("teacher")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_phantom(folder / "data", trees=2, views_per_tree=1, size=32, split=(0.5, 0.5, 0))
        run = fitted("teacher", TEACHER)
    yield folder / run.folder
    torch.set_num_threads(threads)


@pytest.fixture
def cines(tmp_path):
    """Two cines of two patients, of four frames each."""
    source = tmp_path / "cines"
    source.mkdir()
    for seed, patient in ((0, "MRN004711"), (1, "MRN000099")):
        frames = np.random.default_rng(seed).integers(60, 200, (4, 31, 33), np.uint8)
        angles = {"PositionerPrimaryAngle": str(10 * seed - 30)}
        write_cine(source / f"IM{seed}.dcm", frames, PatientID=patient, **angles)
    return source


def rows_of(folder):
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mask_of(folder, row):
    with Image.open(folder / row["deepsa_pseudo_label_path"]) as png:
        return np.asarray(png) > 0, json.loads(png.info["mlkit"])


def test_masks_are_those_that_predict_gives_and_say_where_they_came_from(teacher, cines, tmp_path):
    said = label_frames(teacher, cines, tmp_path / "out", Labelling(threshold=LOW))
    predict_cine(teacher, cines / "IM1.dcm", tmp_path / "p", Wanted(threshold=LOW))
    about = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert (said["kept"], len(about["masks"]), about["complete"]) == (8, 8, True)
    made = about["made_by"]
    model = (teacher / "checkpoints" / made["checkpoint"] / "model.safetensors").resolve()
    assert made["checkpoint_sha256"] == file_sha256(model)
    assert made["weights"] == {
        "encoders.image": "random weights",
        "encoders.view": "random weights",
    }
    assert (made["run"], made["threshold"], made["threshold_from"]) == ("teacher", LOW, "given")
    rows = [row for row in rows_of(tmp_path / "out") if float(row["primary_angle"]) == -20]
    assert len(rows) == 4
    for row in rows:
        mask, inside = mask_of(tmp_path / "out", row)
        with Image.open(tmp_path / "p" / "masks" / f"frame-{int(row['frame_index']):05d}.png") as p:
            assert np.array_equal(mask, np.asarray(p) > 0)
        assert inside["checkpoint_sha256"] == made["checkpoint_sha256"]
        assert inside["confidence"] == float(row["confidence"])


def test_confidence_is_the_mean_probability_within_the_mask():
    p = np.array([[0.9, 0.7, 0.4, 0.0]], np.float32)
    found = measure_mask("a", p, p >= 0.5, least=0.8)
    # Within: (0.9 + 0.7) / 2. Expected Dice: 2 * 1.6 / (2 + 2.0) with 2 pixels and a sum of 2.
    assert (found.confidence, found.expected_dice, found.vessel_share) == (0.8, 0.8, 0.5)
    empty = measure_mask("a", p, p > 1, least=0.1)
    assert (empty.confidence, empty.expected_dice, empty.is_kept) == (0.0, 0.0, False)


def test_masks_below_the_least_confidence_are_not_in_the_table(teacher, cines, tmp_path):
    label_frames(teacher, cines, tmp_path / "all", Labelling(threshold=LOW))
    values = sorted(float(row["confidence"]) for row in rows_of(tmp_path / "all"))
    wanted = Labelling(threshold=LOW, min_confidence=values[3])
    said = label_frames(teacher, cines, tmp_path / "some", wanted)
    kept = rows_of(tmp_path / "some")
    assert said["kept"] == len(kept) == sum(value >= values[3] for value in values)
    assert len(list((tmp_path / "some" / "pseudo_masks").glob("*.png"))) == len(kept)
    about = json.loads((tmp_path / "some" / "provenance.json").read_text())
    assert len(about["masks"]) == 8
    with pytest.raises(InputError, match="no mask reaches it"):
        label_frames(teacher, cines, tmp_path / "none", Labelling(min_confidence=1.0))


def test_labelling_goes_on_after_a_break_and_equals_one_without(
    teacher, cines, tmp_path, monkeypatch
):
    out, seen = tmp_path / "out", []
    make = record.Record.add

    def breaks(self, one, mask):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(one.name)
        make(self, one, mask)

    monkeypatch.setattr(record.Record, "add", breaks)
    with pytest.raises(KeyboardInterrupt):
        label_frames(teacher, cines, out, Labelling(threshold=LOW))
    assert not (out / "index.csv").exists()
    with (out / ".masks.jsonl").open("a") as file:
        file.write('{"name": "cut')  # as a kill in the middle of a line leaves it
    monkeypatch.setattr(record.Record, "add", make)
    done = []
    wanted = Labelling(threshold=LOW, told=lambda number, _all: done.append(number))
    label_frames(teacher, cines, out, wanted)
    assert done == [4, 5, 6, 7, 8]
    label_frames(teacher, cines, tmp_path / "whole", Labelling(threshold=LOW))
    files = {p.relative_to(out) for p in out.rglob("*") if p.is_file()}
    whole = tmp_path / "whole"
    assert files == {p.relative_to(whole) for p in whole.rglob("*") if p.is_file()}
    assert all((out / p).read_bytes() == (whole / p).read_bytes() for p in files)
    with pytest.raises(DataError, match="holds other pseudo-labels"):
        label_frames(teacher, cines, out, Labelling(threshold=0.5))


def test_the_best_frame_of_each_cine_or_the_unlabelled_ones_are_chosen(teacher, cines, tmp_path):
    imported = tmp_path / "set"
    mask = np.zeros((31, 33), np.uint8)
    mask[:, 5:8] = 255
    (cines / "masks").mkdir()
    Image.fromarray(mask).save(cines / "masks" / "IM0_2.png")
    import_set(cines, imported, "auto", Wish(frames="all"), Output())
    one = Labelling(threshold=LOW, frames="best")
    label_frames(teacher, imported, tmp_path / "best", one)
    assert len({row["cine"] for row in rows_of(tmp_path / "best")}) == 2
    assert len(rows_of(tmp_path / "best")) == 2
    rest = Labelling(threshold=LOW, frames="unlabelled")
    label_frames(teacher, imported, tmp_path / "rest", rest)
    assert len(rows_of(tmp_path / "rest")) == 7
    labelled = Labelling(threshold=LOW, frames="labelled")
    label_frames(teacher, imported, tmp_path / "own", labelled)
    (row,) = rows_of(tmp_path / "own")
    assert (row["mask_source"], row["frame_index"]) == ("manual", "")  # a picture has no index
    assert row["vessel_mask_actual_path"].endswith("-00002.png")


def test_what_the_collimator_hides_is_no_vessel(teacher, cines, tmp_path):
    frames = np.random.default_rng(5).integers(60, 200, (1, 31, 33), np.uint8)
    edges = ("UpperHorizontalEdge", 5), ("LowerHorizontalEdge", 25), ("LeftVerticalEdge", 4)
    shutter = {f"Collimator{name}": value for name, value in edges}
    (tmp_path / "one").mkdir()
    write_cine(tmp_path / "one" / "a.dcm", frames, CollimatorRightVerticalEdge=30, **shutter)
    import_set(tmp_path / "one", tmp_path / "set", "auto", Wish(), Output())
    label_frames(teacher, tmp_path / "set", tmp_path / "out", Labelling(threshold=0.0))
    (row,) = rows_of(tmp_path / "out")
    mask, _ = mask_of(tmp_path / "out", row)
    rows, columns = np.nonzero(mask)
    # DICOM counts from 1 and the edges are outside: rows 6 to 24, columns 5 to 29.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 23, 4, 28)


def test_files_whose_path_names_their_patient_are_imported_first(teacher, cines, tmp_path):
    named = cines.rename(tmp_path / "Doe")
    with pytest.raises(DataError, match="its path holds the patient's name or id") as caught:
        label_frames(teacher, named, tmp_path / "out", Labelling())
    assert "mlkit angioseg import" in caught.value.hint


def test_pictures_need_a_view_where_the_model_reads_it(teacher, tmp_path):
    Image.fromarray(np.full((20, 24), 90, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="its angles are missing, and the model reads them"):
        label_frames(teacher, tmp_path / "a.png", tmp_path / "out", Labelling())
    label_frames(teacher, tmp_path / "a.png", tmp_path / "out", Labelling(view="-30,20"))
    (row,) = rows_of(tmp_path / "out")
    assert (row["primary_angle"], row["secondary_angle"]) == ("-30.0", "20.0")
    with pytest.raises(InputError, match="expected PRIMARY,SECONDARY"):
        label_frames(teacher, tmp_path / "a.png", tmp_path / "x", Labelling(view="north"))


def test_a_student_trains_on_both_kinds_and_the_report_tells_them_apart(
    teacher, cines, tmp_path, monkeypatch, capsys, one_thread
):
    monkeypatch.chdir(tmp_path)
    (cines / "masks").mkdir()
    for name in ("IM0_0", "IM1_1", "IM1_2"):
        Image.fromarray(np.eye(31, 33, dtype=np.uint8) * 255).save(cines / "masks" / f"{name}.png")
    split = Output(split=(0.5, 0.5, 0.0), seed=1)
    import_set(cines, tmp_path / "set", "auto", Wish(frames="all"), split)
    args = ["angioseg", "pseudo-label", str(teacher), "set", "-o", "labels", "--threshold", "0.04"]
    assert main(args) == 0
    assert "8 masks of 8 frames" in capsys.readouterr().out
    data = "{name: angio-frames, root: labels, size: 32, augment: false, "
    run = fitted("student", data + "mask_source: prefer_manual, pseudo_weight: 0.25}")
    table = json.loads((run.folder / "tables" / "mask-source.json").read_text())
    counts = {(split, kind): (n, worth) for split, kind, n, _, worth in table["rows"]}
    assert sum(n for n, _ in counts.values()) == 8
    assert {kind: worth for (_, kind), (_, worth) in counts.items()} == {
        "manual": 1,
        "pseudo": 0.25,
    }
    run.evaluate("val")
    with (run.folder / "eval-val.csv").open(newline="") as file:
        sources = [row["mask_source"] for row in csv.DictReader(file)]
    assert set(sources) == {"manual", "pseudo"}
    assert {k: sources.count(k) for k in set(sources)} == {
        kind: n for (split, kind), (n, _) in counts.items() if split == "val"
    }
    assert main(["report", str(run.folder)]) == 0
    assert "Who made the masks" in (run.folder / "report.html").read_text()


def test_pseudo_masks_count_by_their_weight(teacher, cines, tmp_path):
    (cines / "masks").mkdir()
    Image.fromarray(np.eye(31, 33, dtype=np.uint8) * 255).save(cines / "masks" / "IM0_0.png")
    import_set(cines, tmp_path / "set", "auto", Wish(frames="all"), Output())
    label_frames(teacher, tmp_path / "set", tmp_path / "out", Labelling(threshold=LOW))
    options = {"root": tmp_path / "out", "mask_source": "prefer_manual", "augment": False}
    data = AngioFrames(**options, size=32, pseudo_weight=0.25)
    units = data.units("train", 0)
    (batch,) = data.collate([[data.load(draw) for draw in unit] for unit in units])
    expected = [1.0 if m.extra["mask_source"] == "manual" else 0.25 for m in batch.meta]
    assert batch.target.weight.tolist() == expected
    assert sorted(expected) == [0.25] * 7 + [1.0]
    plain = AngioFrames(**options, size=32)
    (same,) = plain.collate([[plain.load(draw) for draw in unit] for unit in units])
    assert same.target.weight is None


def test_a_run_of_other_data_is_refused(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "AngioFrames", str)
    with pytest.raises(InputError, match="the run's data is not angio-frames"):
        label_frames(teacher, tmp_path, tmp_path / "out", Labelling())
