"""The three stages through the one loop: what learns, what must not move, and how it resumes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mlkit_core import load_run
from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.training.stages import build_stage
from mlkit_dvis.clips.example import example as clips_example

RUN = """
name: stages
seed: 3
data:
  name: video-clips
  annotations: {root}/videos.json
  frames: {root}/frames
  val_videos: [video3]
  num_frames: 1
  frame_range: 0
  augment: false
  size: 32
model:
  encoders:
    frames: {{name: mask2former, backbone: "timm:test_resnet", pixel_decoder: fpn, dim: 16,
      mask_dim: 8, num_queries: 5, decoder_layers: 1, heads: 2, feedforward: 16, reid_dim: 8,
      weights: none}}
  head: {{name: video-instances, noise_frames: 1}}
losses: [{{name: frame-set, points: 32}}]
metrics: [{{name: track-ap}}]
optimizer: {{lr: 1e-3}}
trainer: {{epochs: 1, batch_size: 2, log_every: 1}}
stages:
  - {{name: segmenter}}
  - name: tracker
    data: {{num_frames: 3, frame_range: 1}}
    model:
      encoders: {{frames: {{cache: true}}}}
      fusion:
        - &tracker {{name: daq-tracker, as: tracks, num_queries: 5, layers: 1, heads: 2,
            feedforward: 16, points: 32}}
    freeze: [encoders.frames]
    losses: [{{name: tracker-set, points: 32}}]
  - name: refiner
    data: {{num_frames: 4, frame_range: 3}}
    model:
      fusion:
        - *tracker
        - {{name: temporal-refiner, as: refined, layers: 1, heads: 2, feedforward: 16,
            num_rows: 5, noise_frames: 1}}
    freeze: [encoders.frames, fusions.tracks]
    losses: [{{name: video-set, points: 32}}]
"""


@pytest.fixture
def run_file(tmp_path):
    clips_example(tmp_path)
    text = RUN.format(root=tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(text.replace("*tracker", _tracker(text)).replace("&tracker ", ""))
    return path


def _tracker(text):
    """Return the tracker's mapping: run files have no anchors."""
    start = text.index("&tracker ") + len("&tracker ")
    return text[start : text.index("}", start) + 1]


def weights(folder, name):
    return load_file(folder / "checkpoints" / name / "model.safetensors")


def part(tensors, name):
    return {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}


def test_three_stages_train_and_each_leaves_the_frozen_ones_bit_identical(
    run_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    kept = []
    from mlkit_core.training import checkpoint

    write = checkpoint.write
    monkeypatch.setattr(
        checkpoint,
        "write",
        lambda final, info, tensors, state: (
            kept.append((info.stage, {k: v.clone() for k, v in tensors.items()})),
            write(final, info, tensors, state),
        ),
    )
    result = load_run(run_file).fit()
    assert result.status == "finished"
    last = dict(kept)
    assert list(last) == ["segmenter", "tracker", "refiner"]
    for name, before, after in (
        ("encoders.frames", "segmenter", "tracker"),
        ("encoders.frames", "tracker", "refiner"),
        ("fusions.tracks", "tracker", "refiner"),
    ):
        for key, value in part(last[before], name).items():
            assert torch.equal(value, last[after][key]), key
    assert part(last["refiner"], "fusions.refined")
    text = (tmp_path / "runs/stages/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    for stage, loss in (
        ("segmenter", "frame-set"),
        ("tracker", "tracker-set"),
        ("refiner", "video-set"),
    ):
        values = [line[f"{loss}.mask"] for line in trained if line["stage"] == stage]
        assert values
        assert all(value > 0 for value in values)


def test_a_run_is_evaluated_and_predicts_from_its_folder(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_run(run_file).fit()
    run = load_run(tmp_path / "runs" / "stages")
    found = run.evaluate("val", "last")
    assert found.metrics["track-ap.videos"] == 1
    assert [row["video"] for row in found.rows] == ["video3"]
    written = run.predict({"frames": tmp_path / "frames" / "video1"}, tmp_path / "out", "last")
    assert written[0].name == "predictions.json"


def test_frozen_parts_are_in_eval_and_get_no_gradient(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from mlkit_core.training.optim import set_train_mode

    config = load_run(run_file).config.stages[2]
    stage = build_stage(config, 0)
    set_train_mode(stage.model)
    assert not stage.model.encoders["frames"].training
    assert not stage.model.fusions["tracks"].training
    assert stage.model.fusions["refined"].training
    live = {name.rsplit(".refiner")[0] for name, p in stage.named.items() if p.requires_grad}
    assert live == {"fusions.refined"}


def test_a_refiner_over_a_tracker_that_trains_is_refused(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_file.write_text(
        run_file.read_text().replace("freeze: [encoders.frames, fusions.tracks]", "freeze: []")
        .replace("cache: true", "cache: false")
        .replace("losses: [{name: video-set, points: 32}]",
                 "losses: [{name: video-set, points: 32}, {name: tracker-set, points: 32}]")
    )  # fmt: skip
    with pytest.raises((TrainingError, BuildError), match="frozen while the refiner runs"):
        load_run(run_file).fit()
