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
from mlkit_core.synthetic import named_tensors, noise, synthetic_batch
from mlkit_core.tensors import flatten, unflatten
from mlkit_core.training import adapters
from mlkit_core.training.evaluation import evaluating
from mlkit_core.types import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.model import Model
    from mlkit_core.run import Run
    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Role

TOLERANCE = 1e-3
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


class _Graph(nn.Module):
    """The model as a function of named tensors: inputs by role, known features as `role.field`."""

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(tensors).values())

    def outputs(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the head's tensors by field name; without a head, features as `role.field`."""
        given = dict(zip(self.names, tensors, strict=True))
        known: dict[Role, dict[str, Tensor]] = {}
        for name in (name for name in self.names if "." in name):
            role, _, field = name.partition(".")
            known.setdefault(role, {})[field] = given.pop(name)
        features = {r: unflatten(own, self.model.specs[r].type) for r, own in known.items()}
        output = self.model(Batch(inputs=given, features=features, meta=()))
        return named_tensors(output.head if output.head is not None else output.scope)


def export_onnx(
    run: Run, out: Path | None = None, which: str = "best", *, size: int | None = None
) -> ExportReport:
    """Write a checkpoint's model to ONNX, run both on random inputs, and return the difference.

    The batch is free; so are height and width, and the rows of known features, where the model
    allows it. The graph ends at the head's output: decoding to original pixels stays outside.

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
    runtime = _need_extra()
    stage, config, checkpoint = run.stage_of(which)
    for role in (role for role, part in config.encoders.items() if part.lora is not None):
        adapters.merge(stage.model.encoders[role])  # the same output from a plain graph
    options = config.data.options if config.data is not None else {}
    wanted = size or int(options.get("size") or 64)
    out = out if out is not None else run.folder / "model.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    with evaluating(stage.model), TemporaryDirectory(dir=out.parent, prefix=".onnx-") as aside:
        first = _tensors(stage, rows=2, wanted=wanted)
        graph = _Graph(stage.model, list(first)).eval()
        program = _trace(graph, first, _free(stage, first))
        record = {"stage": config.name, "checkpoint": checkpoint.name, "classes": stage.classes}
        program.model.metadata_props["mlkit"] = json.dumps({**record, "weights": stage.weights})
        program.save(Path(aside) / out.name)
        session = runtime.InferenceSession(
            Path(aside) / out.name, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = _shapes(session.get_inputs()), _shapes(session.get_outputs())
        second = _other(stage, first, inputs, wanted)
        difference = max(_difference(session, graph, batch) for batch in (first, second))
        if not difference <= TOLERANCE:  # NaN too
            raise TrainingError(
                f"{out}: ONNX and eager differ by {difference:.3g}, allowed is {TOLERANCE:g}"
            )
        for path in Path(aside).iterdir():  # beyond 2 GB the weights lie in a file of their own
            path.replace(out.parent / path.name)
    return ExportReport(out, difference, inputs, outputs)


def _need_extra() -> Any:  # noqa: ANN401  # the module onnxruntime
    try:
        return [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    except ModuleNotFoundError as err:
        raise PluginError(
            f"export: {err.name} is not installed", hint="pip install 'mlkit-core[onnx]'"
        ) from err


def _known_roles(model: Model) -> list[Role]:
    """Return the encoders whose features the graph takes: sets that a user encodes once."""
    first = next(iter(model.roles))
    return [role for role, s in model.reads.items() if s != first and model.roles[s].lead]


def _tensors(stage: Stage, *, rows: int, wanted: int) -> dict[str, Tensor]:
    """Return random graph inputs by name: data's inputs, and known features as `role.field`."""
    model = stage.model
    needs = input_needs(model, stage.config.encoders)
    batch = synthetic_batch(model.roles, needs, noise, rows=rows, wanted=wanted)
    known = _known_roles(model)
    read = {model.reads[role] for role in model.encoders if role not in known}
    tensors = {name: t for name, t in batch.inputs.items() if name in read}
    for role in known:
        tensors |= {f"{role}.{n}": t for n, t in flatten(model.encode(role, batch)).items()}
    return tensors


def _free(stage: Stage, tensors: Mapping[str, Tensor]) -> list[dict[int, Any]]:
    """Return which dimensions may change: the batch; where they can, sizes and rows of features."""
    auto, needs = torch.export.Dim.AUTO, input_needs(stage.model, stage.config.encoders)
    free: list[dict[int, Any]] = []
    for name, tensor in tensors.items():
        if name not in needs:
            free.append(dict.fromkeys(range(2 if name.endswith(".valid") else 1), auto))
            continue
        shape = stage.model.roles[name].shape
        lead = tensor.ndim - len(shape)
        sizes = [i + lead for i, n in enumerate(shape) if n is None and needs[name].sizes is None]
        free.append(dict.fromkeys([*range(1, lead), *sizes], auto) | {0: "batch"})
    return free


def _trace(graph: _Graph, tensors: Mapping[str, Tensor], free: list[dict[int, Any]]) -> Any:  # noqa: ANN401  # torch's ONNXProgram
    with torch.no_grad():
        names = list(graph.outputs(list(tensors.values())))
        try:
            # The libraries warn of their own deprecations and of names that they merge.
            with warnings.catch_warnings(action="ignore"):
                return torch.onnx.export(
                    graph,
                    tuple(tensors.values()),
                    input_names=list(tensors),
                    output_names=names,
                    dynamic_shapes=(tuple(free),),
                    dynamo=True,
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as err:
            reason = str(err.__cause__ or err).strip().splitlines()[0]
            raise TrainingError(f"export: the model cannot be traced: {reason}") from err


def _shapes(nodes: Sequence[Any]) -> Shapes:
    return {node.name: tuple(node.shape) for node in nodes}


def _other(
    stage: Stage, first: Mapping[str, Tensor], shapes: Shapes, wanted: int
) -> dict[str, Tensor]:
    """Return inputs of another batch size; of other sizes and rows too, where they are free."""
    for size in (wanted + 1, wanted):
        second = _tensors(stage, rows=3, wanted=size)
        bound = {n for n, shape in shapes.items() if not _fits(second[n], shape)}
        second |= {n: t for n, t in first.items() if n in bound and "." in n}
        if all("." in name for name in bound):
            return second
    raise TrainingError(f"export: the graph is bound to one batch size: {shapes}")


def _fits(tensor: Tensor, shape: tuple[int | str, ...]) -> bool:
    return all(isinstance(n, str) or n == m for n, m in zip(shape, tensor.shape, strict=True))


def _difference(session: Any, graph: _Graph, tensors: Mapping[str, Tensor]) -> float:  # noqa: ANN401
    """Return the largest absolute difference over all outputs."""
    expected = graph.outputs(list(tensors.values()))
    taken = {node.name for node in session.get_inputs()}
    found = session.run(list(expected), {n: t.numpy() for n, t in tensors.items() if n in taken})
    pairs = zip(expected.values(), map(torch.from_numpy, found), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs if a.numel())
