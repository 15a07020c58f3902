"""ONNX: the same numbers as eager, for other batches and sizes than the traced ones."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from mlkit_core.errors import PluginError, TrainingError
from mlkit_core.export import export_onnx

SHOTS = """
name: shots
data: {name: blobs, shots: 2, count: 4}
model:
  encoders:
    image: {name: tiny-linear, lora: {rank: 2}}
    hint: {name: hint}
    support: {name: tiny-conv}
  fusion: [{name: film, by: support, pool: true}]
  head: {name: tiny-mask}
losses: [{name: bce}]
trainer: {epochs: 1, batch_size: 4}
"""


def test_an_exported_model_equals_eager_on_other_batches_and_sizes(make_run):
    import onnxruntime

    run = make_run("trainer.epochs=1")
    run.fit()
    report = export_onnx(run)
    assert report.path == run.folder / "model.onnx"
    assert 0 <= report.max_difference < 1e-5
    assert report.inputs["image"][:2] == ("batch", 3)
    assert report.inputs["hint"] == ("batch", 1)
    assert list(report.outputs) == ["logits"]
    image, hint = torch.rand(5, 3, 24, 40), torch.rand(5, 1)
    session = onnxruntime.InferenceSession(report.path)
    (found,) = session.run(None, {"image": image.numpy(), "hint": hint.numpy()})
    model = run.stage_of("best")[0].model.eval()
    with torch.no_grad():
        maps = model.encoders["image"](image)
        scope = {"image": maps, "hint": model.encoders["hint"](hint)}
        scope["fused"] = model.fusions["fused"](scope)
        expected = model.head(scope).logits
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    meta = {entry.key: entry.value for entry in session_metadata(report.path)}
    assert json.loads(meta["mlkit"])["weights"]["encoders.image"] == "random weights"


def session_metadata(path):
    import onnx

    return onnx.load(path).metadata_props


def test_a_reference_set_enters_as_features_of_any_number_of_rows(make_run):
    run = make_run(text=SHOTS, name="shots")
    run.fit()
    report = export_onnx(run, which="last")
    # The hint is read by nothing, and of the support only its vector and which rows are real.
    assert list(report.inputs) == ["image", "support.vector", "support.valid"]
    assert all(isinstance(size, str) for size in report.inputs["support.valid"])
    assert report.max_difference < 1e-5
    # Its encoder is a graph of its own, which gives what this one takes.
    encoder = report.encoders["support"]
    assert encoder.path == run.folder / "model.support.onnx"
    assert encoder.path.is_file()
    assert (list(encoder.inputs), list(encoder.outputs)) == (["support"], ["support.vector"])
    assert encoder.max_difference < 1e-5


def test_a_missing_extra_is_named_with_its_installation(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PluginError, match="onnxruntime is not installed") as caught:
        export_onnx(make_run())
    assert caught.value.hint == "pip install 'mlkit-core[onnx]'"


def test_a_graph_that_differs_is_refused_and_nothing_is_written(make_run, monkeypatch):
    import onnx_ir

    from mlkit_core import export

    run = make_run("trainer.epochs=1")
    run.fit()
    trace = export._trace

    def disturbed(graph, tensors):
        program = trace(graph, tensors)
        for name, value in program.model.graph.initializers.items():
            if name.endswith("cls.bias"):
                value.const_value = onnx_ir.tensor(value.const_value.numpy() + 0.01)
        return program

    monkeypatch.setattr(export, "_trace", disturbed)
    with pytest.raises(TrainingError, match=r"ONNX and eager differ by 0.01"):
        export_onnx(run)
    assert not [path for path in run.folder.iterdir() if "onnx" in path.name]


def test_a_model_that_cannot_be_traced_is_our_own_error(make_run, miniatures, monkeypatch):
    run = make_run("trainer.epochs=1")
    run.fit()
    forward = miniatures.Hint.forward

    def by_value(self, x):
        features = forward(self, x)
        return features if float(x.sum()) > -1e9 else None

    monkeypatch.setattr(miniatures.Hint, "forward", by_value)
    with pytest.raises(TrainingError, match="export: the model cannot be traced"):
        export_onnx(run)


def test_an_input_may_bear_the_name_of_an_operation_within(make_run, miniatures, monkeypatch):
    from mlkit_core.training import checkpoint
    from mlkit_core.training.stages import build_stage

    init = miniatures.Blobs.__init__

    def renamed(self, **options):
        init(self, **options)
        self.roles = {"image": self.roles["image"], "relu": self.roles["hint"]}

    monkeypatch.setattr(miniatures.Blobs, "__init__", renamed)
    run = make_run("model.encoders.hint.input=relu")
    stage = build_stage(run.config.stages[0], 0)
    folder = run.folder / "checkpoints" / "step-00000001"
    checkpoint.write(folder, stage.info(1), stage.model.state_dict(), {})
    report = export_onnx(run, which="step-00000001")
    assert list(report.inputs) == ["image", "relu"]
    assert report.max_difference < 1e-5


def test_images_keep_their_size_where_the_model_does_not_let_it_change(make_run, monkeypatch):
    from mlkit_core import export
    from mlkit_core.training import checkpoint
    from mlkit_core.training.stages import build_stage

    traced = export._traced

    def unsolvable(graph, tensors, free):
        if 2 in free[0]:  # as of a network whose levels meet after several halvings
            raise torch.onnx.OnnxExporterError("the inequality cannot be solved")
        return traced(graph, tensors, free)

    monkeypatch.setattr(export, "_traced", unsolvable)
    run = make_run()
    stage = build_stage(run.config.stages[0], 0)
    folder = run.folder / "checkpoints" / "step-00000001"
    checkpoint.write(folder, stage.info(1), stage.model.state_dict(), {})
    report = export_onnx(run, which="step-00000001", size=24)
    assert report.inputs["image"] == ("batch", 3, 24, 24)
    assert report.max_difference < 1e-5
