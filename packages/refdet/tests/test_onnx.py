"""ONNX: the query's graph takes references as inputs, and needs neither torch nor a new export."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms

from mlkit_core import load_run
from mlkit_core.export import export_onnx
from mlkit_core.tensors import flatten
from mlkit_core.training import checkpoint
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.stages import build_stage
from mlkit_core.types import Batch
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.example import example
from mlkit_refdet.episodes.images import read_rgb
from mlkit_refdet.head.config import DualConfig
from mlkit_refdet.references.enrolling import enroll, load_finder

LEVELS = ("p3", "p4")
RUNTIME = Path(__file__).parents[3] / "examples" / "refdet_onnx.py"
RUN = """
name: tiny
data: {{name: reference-frames, root: {root}, val_fold: [1, 3], n_query: 1, shots: 2, episodes: 1,
  query_size: 96, support_size: 160}}
model:
  encoders:
    query: {{name: timm, model: test_resnet, out_indices: [2, 3], weights: none}}
    support: {{name: vit-reference, model: test_vit, blocks: [0, 0, 1], dim: 8, tokens: 2,
      weights: none}}
    asked: {{name: asked-classes}}
  fusion: [{{name: cheaf, "on": query, by: support, dim: 8, heads: 2}}]
  head: {{name: dual, hidden: 8}}
losses: [{{name: anchor-bce}}, {{name: box-iou}}, {{name: box-dfl}}]
trainer: {{epochs: 1, batch_size: 1}}
"""
STEP = "step-00000001"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run whose every gate is open, its photos and frames, and its two graphs."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("export")
    own = example(folder).args[0]
    text = RUN.format(root=folder / "data")
    (folder / "run.yaml").write_text(text)
    run = load_run(folder / "run.yaml")
    run.folder = folder / "runs" / "tiny"
    stage = build_stage(run.config.stages[0], 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in stage.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    checkpoint.write(run.folder / "checkpoints" / STEP, stage.info(1), stage.model.state_dict(), {})
    (run.folder / "run.yaml").write_text(text)
    return run.folder, own, export_onnx(run, which=STEP)


def test_the_query_graph_takes_prototypes_and_tokens_and_any_number_of_them(exported):
    _, _, report = exported
    names = {f"support.{kind}.{level}" for kind in ("protos", "level_tokens") for level in LEVELS}
    assert set(report.inputs) == {"query", "asked", "support.valid", *names}
    assert report.inputs["query"] == ("batch", 3, 96, 96)
    for name in ("support.valid", "asked", *sorted(names)):
        free = report.inputs[name][: 1 if ".protos." in name else 2]
        assert all(isinstance(size, str) for size in free), name
    encoder = report.encoders["support"]
    assert set(encoder.inputs) == {"support", "support.mask"}
    assert set(encoder.outputs) == names
    assert max(report.max_difference, encoder.max_difference) < 1e-4


def references(model, classes, shots, seed):
    """Return features of random photos; of several the last one of the last class is not real."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(classes, shots, 3, 160, 160, generator=generator)
    valid = torch.ones(classes, shots, dtype=torch.bool)
    valid[-1, -1] = shots == 1
    batch = Batch(inputs={"support": pixels}, meta=(), valid={"support": valid})
    return model.encode("support", batch)


def test_several_reference_sets_through_one_graph_give_what_torch_gives(exported):
    import onnxruntime

    folder, _, report = exported
    stage = load_run(folder).stage_of(STEP)[0]
    session = onnxruntime.InferenceSession(report.path)
    names = [node.name for node in session.get_inputs()]
    query = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(5))
    found = []
    for classes, shots, seed in ((3, 2, 0), (3, 4, 1), (1, 1, 2)):
        inputs = {"query": query, "asked": torch.arange(float(classes))[None]}
        with evaluating(stage.model):
            features = references(stage.model, classes, shots, seed)
            known = Batch(inputs=inputs, features={"support": features}, meta=())
            expected = stage.model(known).head.pairs
        given = {f"support.{name}": tensor for name, tensor in flatten(features).items()}
        feed = {name: (given | inputs)[name].numpy() for name in names}
        logits, distances = session.run(["pairs.logits", "pairs.distances"], feed)
        np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
        np.testing.assert_allclose(distances, expected.distances.numpy(), atol=1e-4)
        found.append(logits)
    moved = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[0])
    assert moved > 0.01  # the references are not baked in


@pytest.mark.parametrize("images", [2, 3])
def test_several_images_at_once_give_what_torch_gives(exported, images):
    """Each image is asked for its own objects; the last one for one fewer."""
    import onnxruntime

    folder, _, report = exported
    stage = load_run(folder).stage_of(STEP)[0]
    asked = torch.arange(3.0).repeat(images, 1).roll(1, 1)
    asked[-1, -1] = -1
    query = torch.rand(images, 3, 96, 96, generator=torch.Generator().manual_seed(6))
    inputs = {"query": query, "asked": asked}
    with evaluating(stage.model):
        features = references(stage.model, 3, 2, 0)
        known = Batch(inputs=inputs, features={"support": features}, meta=())
        expected = stage.model(known).head.pairs
    given = {f"support.{name}": tensor for name, tensor in flatten(features).items()} | inputs
    session = onnxruntime.InferenceSession(report.path)
    feed = {node.name: given[node.name].numpy() for node in session.get_inputs()}
    logits, distances = session.run(["pairs.logits", "pairs.distances"], feed)
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(distances, expected.distances.numpy(), atol=1e-4)


def run_example(*arguments):
    """Run the example where importing torch fails; return its JSON lines."""
    code = (
        "import sys, runpy; sys.modules['torch'] = None; "
        f"sys.argv = {[str(RUNTIME), *map(str, arguments)]!r}; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_of(labels, scores, boxes):
    """Return label, score and box of each detection, by label and falling score."""
    rows = [[n, score, *box] for n, score, box in zip(labels, scores, boxes, strict=True)]
    return np.array(sorted(rows, key=lambda row: (row[0], -row[1])))


def rows_of_line(line, names):
    found = line["found"]
    return rows_of(
        [names.index(one["object"]) for one in found],
        [one["score"] for one in found],
        [one["box_xyxy"] for one in found],
    )


EVERY = {"conf": 0.0, "iou": 1.0, "max_det": 5000}  # every cell of every object
FLAGS = ("--conf", 0, "--iou", 1, "--max-det", 5000)


def test_without_torch_every_cell_says_what_it_says_in_torch(exported, tmp_path):
    folder, own, report = exported
    finder = load_finder(folder, STEP)
    refset = enroll(finder, own["support"])
    refset.save(tmp_path / "mine.refset")
    image = tmp_path / "wide.png"  # bars above and below, nothing is resized
    Image.open(own["query"]).crop((0, 20, 96, 68)).save(image)
    (line,) = run_example(report.path, tmp_path / "mine.refset", image, *FLAGS)
    (batch,) = finder.data.open({"query": image, "support": own["support"]})
    finder.model.head.read_out = EVERY
    with evaluating(finder.model):
        (expected,) = finder.model.head.decode(finder.model(batch).head, batch.meta)
    got = rows_of_line(line, list(refset.names))
    want = rows_of(expected.labels.tolist(), expected.scores.tolist(), expected.boxes_xyxy.tolist())
    assert got.shape == want.shape
    assert len(want) > 6 * 100
    np.testing.assert_allclose(got[:, :2], want[:, :2], atol=1e-4)
    close = np.abs(got[:, 2:] - want[:, 2:]).max(1) < 0.02
    assert close.mean() > 0.9  # scores are printed to four places: ties are in any order


def test_without_torch_photos_are_encoded_by_the_second_graph(exported, tmp_path):
    folder, own, report = exported
    refset = enroll(load_finder(folder, STEP), own["support"])
    refset.save(tmp_path / "mine.refset")
    (one,) = run_example(report.path, tmp_path / "mine.refset", own["query"], *FLAGS)
    (two,) = run_example(report.path, own["support"], own["query"], *FLAGS)
    a, b = (rows_of_line(line, list(refset.names)) for line in (one, two))
    # Photos are resized by Pillow here and by torchvision there: a value differs by 1 of 255.
    np.testing.assert_allclose(a[:, :2], b[:, :2], atol=5e-3)


def test_suppression_without_torch_equals_torchvisions():
    runtime = runpy.run_path(str(RUNTIME), run_name="runtime")
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(80, 4, generator=generator) * 40
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = torch.rand(80, generator=generator), torch.arange(80) % 3
    order = scores.argsort(descending=True).tolist()
    rows = [(int(labels[i]), float(scores[i]), boxes[i].numpy()) for i in order]
    kept = [score for _, score, _ in runtime["suppress"](rows, 0.3)]
    expected = batched_nms(boxes, scores, labels, 0.3)
    assert kept == scores[expected].tolist()


def test_without_torch_boxes_are_suppressed_at_the_heads_overlap():
    runtime = runpy.run_path(str(RUNTIME), run_name="runtime")
    assert runtime["IOU"] == DualConfig().iou


def test_without_torch_an_image_is_placed_as_the_data_places_it(tmp_path):
    runtime = runpy.run_path(str(RUNTIME), run_name="runtime")
    coarse = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((131, 200)).save(tmp_path / "tall.png")
    pixels = read_rgb(tmp_path / "tall.png")
    box = letterbox.fit(pixels.shape[:2], 96)
    expected = letterbox.to_square(pixels, box, 96, letterbox.GREY).float() / 255
    placed = runtime["letterbox"](tmp_path / "tall.png", 96, np.full(3, 114 / 255, np.float32))
    assert (placed.scale, placed.offset, placed.size) == (box.scale, box.offset, (200, 131))
    # Pillow and torchvision round a resized value differently, by 1 of 255.
    np.testing.assert_allclose(placed.pixels, expected.numpy(), atol=1.5 / 255)
    assert not placed.mask.any()
