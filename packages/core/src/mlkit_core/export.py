"""Export to ONNX, checked against the original before the file appears."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from mlkit_core.errors import PluginError, TrainingError
from mlkit_core.graphs import EncoderGraph, ModelGraph
from mlkit_core.training import adapters
from mlkit_core.training.evaluation import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mlkit_core.graphs import Tensors
    from mlkit_core.run import Run
    from mlkit_core.training.stages import Stage

TOLERANCE = 1e-3
Graph = ModelGraph | EncoderGraph
Shapes = dict[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the original.

    Args:
        path: The ONNX file.
        max_difference: Largest absolute difference to eager over all outputs.
        inputs: Name to shape; a dimension that may change is a word.
        outputs: Likewise.
        encoders: Role to the graph of its encoder, where its features are inputs.
    """

    path: Path
    max_difference: float
    inputs: Shapes
    outputs: Shapes
    encoders: Mapping[str, ExportReport] = field(default_factory=dict)


def export_onnx(
    run: Run, out: Path | None = None, which: str = "best", *, size: int | None = None
) -> ExportReport:
    """Write a checkpoint's model to ONNX, run both on random inputs, and return the difference.

    The batch is free; so are height and width of images whose side no option `<input>_size` of the
    data names, and the rows of known features, where the model allows it. Inputs that nothing
    depends on are left out. The graph ends at the head's output: decoding to original pixels stays
    outside. The encoder of a role whose features are inputs becomes a graph of its own beside it,
    `<stem>.<role>.onnx`, whose outputs those inputs are.

    Args:
        run: Trained.
        out: Default: `model.onnx` in the run folder.
        which: "best", "last", a checkpoint's name or path.
        size: Of the traced images, in pixels, raised to the next legal one; default: the data's
            option `<input>_size` or `size`, else 64.

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
    options = config.data.options if config.data else {}
    own = {name: options.get(f"{name}_size") for name in stage.model.roles}
    sides = {name: size or int(side or options.get("size") or 64) for name, side in own.items()}
    about = {"stage": config.name, "checkpoint": checkpoint.name, "classes": stage.classes}
    about["weights"] = stage.weights
    with evaluating(stage.model), TemporaryDirectory(dir=out.parent, prefix=".onnx-") as aside:
        writer = _Writer(Path(aside), runtime, sides, about)
        report = writer.model(stage, out, {name for name, side in own.items() if side})
        for path in Path(aside).iterdir():  # beyond 2 GB the weights lie in a file of their own
            path.replace(out.parent / path.name)
    return report


@dataclass(frozen=True)
class _Writer:
    """Writes graphs into a folder, each compared with eager.

    Args:
        folder: Where files lie until all of them are right.
        runtime: The module onnxruntime.
        sides: Input to the side of its images, pixels.
        about: What the files' metadata say.
    """

    folder: Path
    runtime: Any
    sides: dict[str, int]
    about: Mapping[str, Any]

    def model(self, stage: Stage, out: Path, sized: set[str]) -> ExportReport:
        """Write the model and the encoders of roles whose features it takes."""
        graph = ModelGraph(stage, sized)
        report, encoders = self.graph(graph, out), {}
        for role in graph.known:
            fields = {name for name in report.inputs if name.startswith(f"{role}.")}
            wanted = tuple(name for name in report.inputs if name in fields - {f"{role}.valid"})
            if wanted:
                beside = out.with_name(f"{out.stem}.{role}.onnx")
                encoders[role] = self.graph(EncoderGraph(stage, role, wanted, sized), beside)
        return replace(report, encoders=encoders)

    def graph(self, graph: Graph, out: Path) -> ExportReport:
        """Write one graph, which will lie at `out`."""
        first = graph.example(2, self.sides)
        program = _trace(graph, first)
        pads = {name: list(need.pad_rgb) for name, need in graph.needs.items()}
        program.model.metadata_props["mlkit"] = json.dumps({**self.about, "pad_rgb": pads})
        program.save(self.folder / out.name)
        session = self.runtime.InferenceSession(self.folder / out.name)
        inputs = {node.name: tuple(node.shape) for node in session.get_inputs()}
        outputs = {node.name: tuple(node.shape) for node in session.get_outputs()}
        second = _another(graph, first, inputs, self.sides)
        difference = max(_difference(session, graph, tensors) for tensors in (first, second))
        if not difference <= TOLERANCE:  # NaN too
            raise TrainingError(
                f"{out}: ONNX and eager differ by {difference:.3g}, allowed is {TOLERANCE:g}"
            )
        return ExportReport(out, difference, inputs, outputs)


def _runtime() -> Any:  # noqa: ANN401  # the module onnxruntime
    try:
        return [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-core[onnx]'"
        raise PluginError(f"export: {err.name} is not installed", hint=hint) from err


def _trace(graph: Graph, tensors: Tensors) -> Any:  # noqa: ANN401  # torch's ONNXProgram
    """Return the graph with free sizes of images, or else with those of `tensors`."""
    ways = [
        [graph.free(name, tensor, sized=sized) for name, tensor in tensors.items()]
        for sized in (False, True)
    ]
    try:
        program = _traced(graph, tensors, ways[0])
    except torch.onnx.OnnxExporterError as first:
        try:
            if ways[0] == ways[1]:
                raise
            program = _traced(graph, tensors, ways[1])
        except torch.onnx.OnnxExporterError as err:
            reason = str(err.__cause__ or err).strip().splitlines()[0]
            raise TrainingError(f"export: the model cannot be traced: {reason}") from first
    traced, outputs = program.model.graph, graph.outputs(tensors)
    for value in (value for node in traced for value in node.outputs):
        if value.name in {*tensors, *outputs} and not value.is_graph_output():
            value.name = f"{value.name}.inner"  # torch calls values by their operation, as `view`
    for value in [value for value in traced.inputs if not value.uses()]:
        traced.inputs.remove(value)
    return program


def _traced(graph: Graph, tensors: Tensors, free: list[dict[int, Any]]) -> Any:  # noqa: ANN401
    passes = logging.getLogger("onnx_ir")
    level = passes.level
    passes.setLevel(logging.ERROR)  # it warns of every output that is a constant
    try:
        with warnings.catch_warnings(action="ignore"):  # the libraries' own deprecations
            return torch.onnx.export(
                graph,
                tuple(tensors.values()),
                input_names=list(tensors),
                output_names=list(graph.outputs(tensors)),
                dynamic_shapes=(tuple(free),),
                verbose=False,
            )
    finally:
        passes.setLevel(level)


def _another(graph: Graph, first: Tensors, shapes: Shapes, sides: dict[str, int]) -> Tensors:
    """Return inputs of another batch size; of another image size and other rows where free."""
    for more in (1, 0):
        second = graph.example(3, {name: side + more for name, side in sides.items()})
        bound = {name for name, shape in shapes.items() if not _fits(second[name], shape)}
        roles = {role for role in graph.known if any(n.startswith(f"{role}.") for n in bound)}
        second |= {name: t for name, t in first.items() if name.partition(".")[0] in roles}
        if not bound.intersection(graph.direct):
            return second
    raise TrainingError(f"export: the graph is bound to one batch size: {shapes}")


def _fits(tensor: Tensor, shape: tuple[int | str, ...]) -> bool:
    return all(isinstance(n, str) or n == m for n, m in zip(shape, tensor.shape, strict=True))


def _difference(session: Any, graph: Graph, tensors: Tensors) -> float:  # noqa: ANN401
    """Return the largest absolute difference over all outputs."""
    expected = graph.outputs(tensors)
    feed = {node.name: tensors[node.name].numpy() for node in session.get_inputs()}
    pairs = zip(expected.values(), session.run(list(expected), feed), strict=True)
    return max(float((a.float() - torch.as_tensor(b).float()).abs().max()) for a, b in pairs)
