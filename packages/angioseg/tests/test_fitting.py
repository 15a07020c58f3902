"""Whole runs on a few phantom frames, and on real ones where they are at hand."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.metrics.overlap import MaskOverlap
from mlkit_angioseg.phantom import write_proof
from mlkit_core import load_run
from mlkit_core.build import build_data, build_stage_model, input_needs
from mlkit_core.components.mask_losses import bce_per_image, dice_per_image
from mlkit_core.config import load_config
from mlkit_core.errors import MlkitError
from mlkit_core.types import Needs

RUN = """
name: four
seed: 1
data: {name: angio-frames, root: data, size: 96, augment: false}
model:
  encoders:
    image: {name: timm, model: resnet10t, weights: none, out_indices: [0, 1, 2, 3]}
    stem: {name: conv-stem, input: image, dim: 16, stride: 2}
    view: {name: view-angle, dim: 16}
  fusion: {name: film, "on": image, by: view}
  head: {name: fpn-mask, stem: stem}
losses: [{name: bce, weight: 0.5}, {name: dice, weight: 0.5}]
metrics: [{name: mask-overlap}]
optimizer: {name: adamw, lr: 1e-3}
trainer: {name: supervised, epochs: 1, batch_size: 4}
"""


@pytest.fixture
def four_frames(tmp_path, monkeypatch, one_thread):
    write_proof(tmp_path / "data", count=4, size=96, split=(1, 0, 0))
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_four_frames_can_be_learned_by_heart(four_frames):
    stage = load_config(four_frames / "run.yaml").stages[0]
    torch.manual_seed(0)
    data = build_data(stage.data)
    model = build_stage_model(stage, data)
    data.bind(input_needs(model, stage.encoders))
    [batch] = data.collate([[data.load(draw) for draw in u] for u in data.units("cache", 0)])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        logits = model(batch).head.logits
        loss = bce_per_image(logits, batch.target) + dice_per_image(logits, batch.target)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert min(score(model, batch)) > 0.9


def score(model, batch):
    metric = MaskOverlap(resamples=0)
    model.eval()
    with torch.no_grad():
        metric.update(model.head.decode(model(batch).head, batch.meta), batch)
    return [row["dice"] for row in metric.rows()]


@pytest.mark.parametrize("name", ["init", "demo", "real"])
def test_the_run_files_that_are_handed_out_are_valid(tmp_path, name):
    path = tmp_path / "run.yaml"
    if name == "real":
        path = Path(__file__).parents[3] / "examples" / "angioseg-real.yaml"
    else:
        file = {"init": "angioseg.yaml", "demo": "demo.yaml"}[name]
        path.write_text(files("mlkit_angioseg").joinpath("run_files", file).read_text())
    stage = load_config(path).stages[0]
    model = build_stage_model(stage, build_data(stage.data))
    assert [level.stride for level in model.head.levels] == [2, 2, 4, 8, 16, 32]


def test_a_cached_encoder_is_refused_while_its_input_is_augmented(four_frames):
    text = RUN.replace("augment: false", "augment: true").replace(
        "weights: none", "weights: none, cache: true"
    )
    (four_frames / "run.yaml").write_text(text + "freeze: [encoders.image]\n")
    with pytest.raises(MlkitError, match="cache"):
        load_run("run.yaml").fit()


def test_the_index_of_real_angiograms_loads_as_it_is(real_data):
    data = AngioFrames(real_data / "angio", masks="masks_clean", val_patients=["P5"])
    data.bind({"image": Needs(size_multiple=32), "view": Needs()})
    assert (len(data.units("train", 0)), len(data.units("val", 0))) == (173, 33)
    assert {row.patient for row in data.rows() if row.split == "val"} == {"P5"}
    [draw] = data.units("val", 0)[0]
    sample = data.load(draw)
    assert sample.inputs["image"].shape == (3, 512, 512)
    assert sample.meta.key == "P5_C1_00021"
    assert sample.inputs["view"].tolist() == pytest.approx([-24.9, -12.5])
    assert 0.01 < float(sample.target.masks.mean()) < 0.1


def test_the_seed_format_of_real_angiograms_loads_as_it_is(real_data, caplog):
    data = AngioFrames(real_data / "angio_seedformat", augment=False)
    samples = [data.load(draw) for [draw] in data.units("cache", 0)]
    assert len(samples) == 7
    for sample in samples:
        assert sample.inputs["view"].tolist() == pytest.approx([-32.3, 2.5])
    plain = AngioFrames(real_data / "angio", masks="masks", augment=False)
    [row] = [i for i, row in enumerate(plain.rows()) if row.key == "P1_C1_00013"]
    twin = plain.load(next(d for [d] in plain.units("cache", 0) if d.index == row))
    assert torch.equal(samples[0].inputs["image"], twin.inputs["image"])
    assert "all 7 rows have the same angles" in caplog.text
