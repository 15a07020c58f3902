"""Several classes through data, heads, losses, metric and files."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from conftest import write_rows
from PIL import Image

from mlkit_angioseg.config import AugmentOptions
from mlkit_angioseg.frames.augment import augment
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.frames.letterbox import resize_mask
from mlkit_angioseg.metrics.overlap import MaskOverlap, class_dice
from mlkit_angioseg.targets import VesselTarget
from mlkit_core import load_run
from mlkit_core.errors import DataError
from mlkit_core.types import Batch, MaskPrediction, SampleMeta

SIDE = 32


@pytest.fixture
def label_data(tmp_path):
    """Four frames with two segments each: 1 is dark, 2 is bright."""
    rng, rows = np.random.default_rng(0), []
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[:, 4 + number : 10 + number] = 1
        labels[:, 18 + number : 24 + number] = 2
        grey = rng.normal(128, 4, labels.shape) + np.array([0, -90, 90])[labels]
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(labels).save(tmp_path / f"masks/{number}.png")
        split = "val" if number == 3 else "train"
        angles = {"primary_angle": number, "secondary_angle": 0}
        rows.append({"image": f"{number}.png", "patient": f"P{number}", "split": split, **angles})
    write_rows(tmp_path / "index.csv", rows)
    return tmp_path


def test_label_maps_come_at_both_sizes_with_their_classes(label_data):
    data = AngioFrames(root=label_data, size=16, augment=False, classes=["LAD", "LCX"])
    assert data.classes == ("background", "LAD", "LCX")
    ((draw,),) = data.units("val", 0)
    target = data.load(draw).target
    stored = np.asarray(Image.open(label_data / "masks" / "3.png"))
    assert np.array_equal(target.original[0].numpy(), stored)
    # Columns 7 to 12 are 1, 21 to 26 are 2; of a pair, half is enough.
    assert target.masks[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 0, 0]


def test_a_value_without_a_name_is_refused(label_data):
    data = AngioFrames(root=label_data, size=16, augment=False, classes=["LAD"])
    with pytest.raises(DataError, match="value 2, but there are 1 classes"):
        data.load(data.units("val", 0)[0][0])
    binary = AngioFrames(root=label_data, size=16, augment=False)
    with pytest.raises(DataError, match="expected values 0 and 1, or 0 and 255"):
        binary.load(binary.units("val", 0)[0][0])


def test_a_shrunk_pixel_is_of_its_largest_class_where_half_of_it_is_vessel():
    labels = torch.tensor([[[1, 1, 0, 0, 1, 0], [2, 0, 0, 3, 2, 2]]], dtype=torch.float32)
    # Shares: 1/2 of 1 and 1/4 of 2; a quarter of 3; 1/4 of 1 and 1/2 of 2.
    assert resize_mask(labels, (1, 3), classes=3).tolist() == [[[1, 0, 2]]]


def test_a_turned_label_map_keeps_its_values_and_makes_no_class_in_between():
    labels = torch.zeros(1, 32, 32)
    labels[:, 8:16, 8:24], labels[:, 16:24, 8:24] = 1, 3
    options = AugmentOptions(rotation_deg=90, noise=0, blur_px=0)
    rng = np.random.default_rng(3)
    out = augment(torch.rand(1, 32, 32), labels, (0.0, 0.0), options, rng, classes=3)
    assert set(out.mask.unique().tolist()) == {0, 1, 3}
    # Averaging 1 and 3 would put a line of 2 between them.


def scored(probabilities, labels, classes=("background", "LAD", "LCX")):
    metric = MaskOverlap(resamples=0, classes=classes)
    for number, (p, label) in enumerate(zip(probabilities, labels, strict=True)):
        meta = SampleMeta(key=f"f{number}", size=tuple(label.shape), group=f"P{number}")
        target = VesselTarget(masks=label[None].float(), original=(label,))
        batch = Batch(inputs={}, meta=(meta,), target=target, kind="mask")
        metric.update([MaskPrediction(p)], batch)
    return metric


def one_hot(labels, sure=0.8):
    rest = (1 - sure) / 2
    maps = torch.nn.functional.one_hot(labels.long(), 3).permute(2, 0, 1)
    return maps * (sure - rest) + rest


def test_each_class_has_a_dice_and_confused_classes_are_still_vessel():
    truth = torch.tensor([[1, 1, 0, 2], [1, 1, 0, 2]], dtype=torch.uint8)
    found = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 2]], dtype=torch.uint8)
    values = scored([one_hot(found)], [truth]).compute()
    assert values["dice_LAD"] == pytest.approx(2 * 4 / (5 + 4))
    assert values["dice_LCX"] == pytest.approx(2 * 1 / (1 + 2))
    assert values["dice_classes"] == pytest.approx((8 / 9 + 2 / 3) / 2)
    assert values["dice"] == 1.0  # vessel against background


def test_an_image_without_a_class_is_left_out_of_its_mean():
    truth = torch.tensor([[1, 0], [0, 0]], dtype=torch.uint8)
    assert math.isnan(class_dice(truth.numpy(), truth.numpy(), ("background", "a", "b"))["dice_b"])
    both = torch.tensor([[1, 2], [0, 0]], dtype=torch.uint8)
    metric = scored([one_hot(truth), one_hot(truth)], [truth, both])
    assert metric.compute()["dice_LCX"] == 0.0  # missed in one, not there in the other
    assert metric.compute()["dice_LAD"] == 1.0


def test_other_classes_than_the_metrics_are_refused():
    truth = torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match="3 classes are predicted, of 0"):
        scored([one_hot(truth)], [truth], classes=("vessel",))


RUN_FILE = """
name: labels
data: {{name: angio-frames, root: {root}, size: 32, augment: false, classes: [LAD, LCX]}}
model:
  encoders:
    image: {{name: conv-stem, dim: 8, stride: 2, norm: group}}
  head: {{name: {head}, norm: group}}
losses: [{{name: bce}}, {{name: dice}}, {{name: cldice, weight: 0.1}},
         {{name: focal-tversky, weight: 0.1}}, {{name: focal, weight: 0.1}}]
metrics: [{{name: mask-overlap, resamples: 0}}]
optimizer: {{name: adamw, lr: 2e-2}}
trainer: {{epochs: 25, batch_size: 3, monitor: mask-overlap.dice_classes, validate_every: 25}}
"""


@pytest.mark.parametrize("head", ["conv-mask, dim: 8, hidden: [8, 8]", "fpn-mask"])
def test_a_model_learns_two_classes_and_its_files_name_them(
    head, label_data, tmp_path, monkeypatch, one_thread
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN_FILE.format(root=label_data, head=head))
    run = load_run("run.yaml")
    run.fit()
    found = run.evaluate("val")
    assert found.metrics["mask-overlap.dice_classes"] > 0.8
    with (run.folder / "eval-val.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"dice_LAD", "dice_LCX"} <= set(row)
    run.predict({"image": label_data / "images" / "3.png"}, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written["categories"] == [{"id": 1, "name": "LAD"}, {"id": 2, "name": "LCX"}]
    assert {entry["category_id"] for entry in written["annotations"]} == {1, 2}
