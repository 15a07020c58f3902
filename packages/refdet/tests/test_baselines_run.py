"""Baselines by the common verbs: a run file, its folder, its evaluation and predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_cli.main import main
from mlkit_core import load_run
from mlkit_core.config import load_config
from mlkit_core.errors import PluginError
from mlkit_core.plugins import load_catalogue
from mlkit_core.report.video import VideoWriter
from mlkit_refdet.baselines import run_files
from mlkit_refdet.features import SupportFeatures
from mlkit_refdet.references.enrolling import load_finder
from mlkit_refdet.references.reference_set import reference_set

SIDE = 96
SMALL = (
    f"data.query_size={SIDE}",
    "data.support_size=32",
    "data.val_classes=[cup, hat]",
    "data.shots=1",
    "data.eval_asked=1",
    "model.head.sizes=[24.0,28.0]",
)
UNTRAINED = tuple(f"model.encoders.{role}.weights=none" for role in ("query", "support"))
NAMES = ("template_match", "prototype_match")


@pytest.fixture
def installed():
    """A skip where a component that the run files name is not there yet."""

    def needs(*components: tuple[str, str]) -> None:
        for kind, name in components:
            try:
                load_catalogue().find(kind, name)
            except PluginError as err:
                pytest.skip(str(err))

    return needs


def _texture(height: int, width: int, seed: int) -> torch.Tensor:
    coarse = torch.rand(
        1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def _save(pixels: torch.Tensor, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path)


@pytest.fixture
def boxes_folder(tmp_path):
    """Four images, two of either of two textured objects, and one photo of each."""
    root, sizes = tmp_path / "data", {"cup": (24, 24), "hat": (16, 28)}
    images, annotations = [], []
    for number in range(4):
        label = number % 2
        name, (height, width) = list(sizes.items())[label]
        pixels = 0.4 + 0.2 * _texture(SIDE, SIDE, 50 + number)
        x, y = 10 + 12 * number, 50 - 10 * number
        pixels[:, y : y + height, x : x + width] = _texture(height, width, label)
        _save(pixels, root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        box = {"image_id": number, "category_id": label, "bbox": [x, y, width, height]}
        annotations.append({"id": number + 1, **box})
    for label, (name, (height, width)) in enumerate(sizes.items()):
        _save(_texture(height, width, label), root / "references" / name / "view.png")
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(sizes)],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def built(text, folder, options=()):
    path = folder / "run.yaml"
    path.write_text(text)
    run = load_run(path, [*SMALL, *options])
    run.fit()
    return run


@pytest.fixture
def baseline(boxes_folder, tmp_path, monkeypatch):
    """Make the folder of a baseline's run, by the name of its run file."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        options = UNTRAINED if name == "prototype_match" else ()
        return built(getattr(run_files, name)(), tmp_path, options).folder

    return make


def found_in_a_clip(run, data, folder):
    """Return each frame's detections by `find`, best first: the clip shows the four images."""
    with VideoWriter(folder / "clip.mp4", 10, crf=10) as writer:
        for number in range(4):
            writer.write(np.asarray(Image.open(data / "images" / f"{number}.png")))
    command = ["refdet", "find", str(folder / "clip.mp4"), "--run", str(run), "--conf", "0"]
    given = ["--refs", str(data / "references"), "-o", str(folder / "out"), "--no-pictures"]
    assert main([*command, *given]) == 0
    lines = (folder / "out" / "journal.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["found"] for line in lines]


def test_find_shows_where_template_matching_sees_the_photos(baseline, boxes_folder, tmp_path):
    frames = found_in_a_clip(baseline("template_match"), boxes_folder, tmp_path)
    assert len(frames) == 4
    for number, found in enumerate(frames):
        box, score, label = found[0]
        width, height = ((24, 24), (28, 16))[number % 2]
        x, y = 10 + 12 * number, 50 - 10 * number
        assert label == number % 2
        assert score > 0.8  # of 1; H.264 takes some
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2  # a photo without a mask has no shape
        assert middle == pytest.approx((x + width / 2, y + height / 2), abs=2)


def test_find_shows_what_prototype_matching_predicts(baseline, boxes_folder, tmp_path):
    run = baseline("prototype_match")
    frames = found_in_a_clip(run, boxes_folder, tmp_path)
    finder = load_finder(run)
    own = {"query": tmp_path / "clip.mp4", "support": boxes_folder / "references"}
    batches = list(finder.data.open(own))
    assert len(frames) == len(batches) == 4
    for batch, found in zip(batches, frames, strict=True):
        with torch.no_grad():
            (expected,) = finder.model.head.decode(finder.model(batch).head, batch.meta)
        best = expected.scores[0].item()
        assert len(found) == len(expected.scores) > 0
        assert found[0][1] == pytest.approx(best, abs=1e-5)
        assert found[0][0] == pytest.approx(expected.boxes_xyxy[0].tolist(), abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_cannot_be_enrolled_for_and_says_why(
    baseline, boxes_folder, tmp_path, capsys, name
):
    run, out = baseline(name), tmp_path / "all.refset"
    capsys.readouterr()
    photos = str(boxes_folder / "references")
    assert main(["refdet", "enroll", str(run), photos, "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{run}: the model compares the photos' maps, which no .refset file holds" in said
    assert "`--refs`" in said
    assert not out.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_refuses_a_file_in_the_place_of_photos(
    baseline, boxes_folder, tmp_path, capsys, name
):
    run = baseline(name)
    encoder = load_finder(run).model.encoders["support"]
    kept = SupportFeatures(valid=torch.ones(2, 1, dtype=torch.bool), vector=torch.ones(2, 1))
    reference_set(kept, ["cup", "hat"], encoder).save(tmp_path / "all.refset")
    image, given = str(boxes_folder / "images" / "0.png"), str(tmp_path / "all.refset")
    command = ["refdet", "find", image, "--run", str(run), "--refset", given]
    capsys.readouterr()
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    assert f"{given}: the model compares the photos' maps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    roles = ["--input", f"query={image}", "--input", f"support={given}"]
    assert main(["predict", str(run), *roles, "--out", str(tmp_path / "told")]) == 2
    said = capsys.readouterr().err
    assert "role 'support' came without maps" in said


def test_template_matching_runs_from_its_run_file_to_a_table_of_classes(
    installed, boxes_folder, tmp_path, monkeypatch
):
    installed(("trainer", "none"), ("data", "reference-frames"), ("encoder", "asked-classes"))
    monkeypatch.chdir(tmp_path)
    run = built(run_files.template_match(), tmp_path)
    found = load_run(run.folder).evaluate("val")
    assert found.metrics["box-map.map50"] > 0.99
    assert found.metrics["false-alarms.pairs_distractor"] == 4  # each image, the other object
    assert {row["key"] for row in found.rows} == {"cup", "hat"}
    assert (run.folder / "eval-val.csv").read_text().startswith("metric,key,map50")


def test_both_run_files_are_valid(installed, tmp_path):
    encoders = ("asked-classes", "yolo-query", "yolo-reference")
    installed(
        ("trainer", "none"), ("data", "reference-frames"), *(("encoder", e) for e in encoders)
    )
    for text in (run_files.template_match(), run_files.prototype_match()):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        assert load_config(path).stages[0].head is not None
