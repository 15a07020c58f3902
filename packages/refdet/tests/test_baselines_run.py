"""Baselines by the common verbs: a run file, its folder, its evaluation and predictions."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from mlkit_core import load_run
from mlkit_core.config import load_config
from mlkit_core.errors import PluginError
from mlkit_core.plugins import load_catalogue
from mlkit_refdet.baselines import run_files

SIDE = 96


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


def test_template_matching_runs_from_its_run_file_to_a_table_of_classes(
    installed, boxes_folder, tmp_path, monkeypatch
):
    installed(("trainer", "none"), ("data", "reference-frames"), ("encoder", "asked-classes"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(run_files.template_match())
    small = [f"data.query_size={SIDE}", "data.support_size=32", "model.head.sizes=[24.0,28.0]"]
    split = ["data.val_classes=[cup, hat]", "data.shots=1", "data.eval_asked=1"]
    run = load_run(path, [*small, *split])
    run.fit()
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
