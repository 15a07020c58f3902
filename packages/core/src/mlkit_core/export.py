"""Export to ONNX, checked against the original before the file appears."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.build import input_needs
from mlkit_core.errors import PluginError, TrainingError
from mlkit_core.report.synthetic import named_tensors, synthetic_batch
from mlkit_core.tensors import flatten, unflatten
from mlkit_core.training import adapters
from mlkit_core.training.evaluation import evaluating
from mlkit_core.types import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.run import Run
    from mlkit_core.training.stages import Stage

TOLERANCE = 1e-3
Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the original.

    Args:
        path: The ONNX file.
        max_difference: Largest absolute difference to eager over all outputs.
        inputs: Name to shape; a dimension that may change is a word.
        outputs: Likewise.
    """

    path: Path
    max_difference: float
    inputs: Shapes
    outputs: Shapes


def export_onnx(
    run: Run, out: Path | None = None, which: str = "best", *, size: int | None = None
) -> ExportReport:
    """Write a checkpoint's model to ONNX, run both on random inputs, and return the difference.

    The batch is free; so are height and width, and the rows of known features, where the model
    allows it. Inputs that nothing depends on are left out. The graph ends at the head's output:
    decoding to original pixels stays outside.

    Args:
        run: Trained.
        out: Default: `model.onnx` in the run folder.
        which: "best", "last", a checkpoint's name or path.
        size: Of the traced images, in pixels, raised to the next legal one; default: the data's
            option `size`, else 64.

    Raises:
        PluginError: The extra `onnx` is not installed.
        TrainingError: The model cannot be traced, or differs by more than 1e-3; nothing is written.
    """
    runtime = _runtime()
    stage, config, checkpoint = run.stage_of(which)
    for role in (role for role, part in config.encoders.items() if part.lora is not None):
        adapters.merge(stage.model.encoders[role])  # the same output from a plain graph
    out = out if out is not None else run.folder / "model.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    size = size or int((config.data.options if config.data else {}).get("size") or 64)
    with evaluating(stage.model), TemporaryDirectory(dir=out.parent, prefix=".onnx-") as aside:
        graph = _Graph(stage)
        first = graph.example(rows=2, size=size)
        program = _trace(graph, first)
        record = {"stage": config.name, "checkpoint": checkpoint.name, "classes": stage.classes}
        program.model.metadata_props["mlkit"] = json.dumps({**record, "weights": stage.weights})
        program.save(Path(aside) / out.name)
        session = runtime.InferenceSession(Path(aside) / out.name)
        inputs = {node.name: tuple(node.shape) for node in session.get_inputs()}
        outputs = {node.name: tuple(node.shape) for node in session.get_outputs()}
        second = _another(graph, first, inputs, size)
        difference = max(_difference(session, graph, tensors) for tensors in (first, second))
        if not difference <= TOLERANCE:  # NaN too
            raise TrainingError(
                f"{out}: ONNX and eager differ by {difference:.3g}, allowed is {TOLERANCE:g}"
            )
        for path in Path(aside).iterdir():  # beyond 2 GB the weights lie in a file of their own
            path.replace(out.parent / path.name)
    return ExportReport(out, difference, inputs, outputs)


def _runtime() -> Any:  # noqa: ANN401  # the module onnxruntime
    try:
        return [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-core[onnx]'"
        raise PluginError(f"export: {err.name} is not installed", hint=hint) from err


class _Graph(nn.Module):
    """The model as a function of tensors: the data's inputs, and known features as `role.field`.

    Features are what a user encodes once: roles that read an input with a lead, not the first.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.model, self.needs = stage.model, input_needs(stage.model, stage.config.encoders)
        leads = {name for name in list(self.model.roles)[1:] if self.model.roles[name].lead}
        self.known = [role for role, source in self.model.reads.items() if source in leads]
        self.direct = [name for name in self.needs if name not in leads]
        self.names: list[str] = []
        self.eval()

    def example(self, *, rows: int, size: int) -> Tensors:
        """Return random inputs by name."""
        batch = synthetic_batch(self.model, self.needs, rows=rows, size=size)
        tensors = {name: batch.inputs[name] for name in self.direct}
        for role in self.known:
            features = flatten(self.model.encode(role, batch))
            tensors |= {f"{role}.{name}": tensor for name, tensor in features.items()}
        self.names = list(tensors)
        return tensors

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(dict(zip(self.names, tensors, strict=True))).values())

    def outputs(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Return the head's tensors by field name; without a head, features as `role.field`."""
        features = {
            role: unflatten(_below(role, tensors), self.model.specs[role].type)
            for role in self.known
        }
        inputs = {name: tensors[name] for name in self.direct}
        output = self.model(Batch(inputs=inputs, features=features, meta=()))
        return named_tensors(output.scope if output.head is None else output.head)

    def free(self, name: str, tensor: Tensor) -> dict[int, Any]:
        """Return which dimensions may change: the batch must, others if the model lets them."""
        auto = torch.export.Dim.AUTO
        if name not in self.direct:
            return dict.fromkeys(range(tensor.ndim), auto)
        shape = self.model.roles[name].shape
        fixed = self.needs[name].sizes is not None
        known = [None] * (tensor.ndim - len(shape)) + [0 if fixed else n for n in shape]
        return {i: auto for i, n in enumerate(known) if n is None} | {0: "batch"}


def _below(role: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {n.removeprefix(f"{role}."): t for n, t in tensors.items() if n.startswith(f"{role}.")}


def _trace(graph: _Graph, tensors: Tensors) -> Any:  # noqa: ANN401  # torch's ONNXProgram
    free = tuple(graph.free(name, tensor) for name, tensor in tensors.items())
    outputs = list(graph.outputs(tensors))
    try:
        with warnings.catch_warnings(action="ignore"):  # the libraries' own deprecations
            program: Any = torch.onnx.export(
                graph,
                tuple(tensors.values()),
                input_names=list(tensors),
                output_names=outputs,
                dynamic_shapes=(free,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as err:
        reason = str(err.__cause__ or err).strip().splitlines()[0]
        raise TrainingError(f"export: the model cannot be traced: {reason}") from err
    traced = program.model.graph
    for value in (value for node in traced for value in node.outputs):
        if value.name in {*tensors, *outputs} and not value.is_graph_output():
            value.name = f"{value.name}.inner"  # torch calls values by their operation, as `view`
    for value in [value for value in traced.inputs if not value.uses()]:
        traced.inputs.remove(value)
    return program


def _another(graph: _Graph, first: Tensors, shapes: Shapes, size: int) -> Tensors:
    """Return inputs of another batch size; of another image size and other rows where free."""
    for wanted in (size + 1, size):
        second = graph.example(rows=3, size=wanted)
        bound = {name for name, shape in shapes.items() if not _fits(second[name], shape)}
        roles = {role for role in graph.known if any(n.startswith(f"{role}.") for n in bound)}
        second |= {name: t for name, t in first.items() if name.partition(".")[0] in roles}
        if not bound.intersection(graph.direct):
            return second
    raise TrainingError(f"export: the graph is bound to one batch size: {shapes}")


def _fits(tensor: Tensor, shape: tuple[int | str, ...]) -> bool:
    return all(isinstance(n, str) or n == m for n, m in zip(shape, tensor.shape, strict=True))


def _difference(session: Any, graph: _Graph, tensors: Tensors) -> float:  # noqa: ANN401
    """Return the largest absolute difference over all outputs."""
    expected = graph.outputs(tensors)
    feed = {node.name: tensors[node.name].numpy() for node in session.get_inputs()}
    pairs = zip(expected.values(), session.run(list(expected), feed), strict=True)
    return max(float((a.float() - torch.as_tensor(b).float()).abs().max()) for a, b in pairs)
