"""The data's way through the model, stage by stage: one real forward of a made-up batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlkit_core.build import Losses, build_data, build_stage_model, input_needs
from mlkit_core.config.frame import EncoderPart, LossPart
from mlkit_core.report.synthetic import named_tensors, synthetic_batch
from mlkit_core.training.cache import check_cacheable
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.optim import matching
from mlkit_core.training.stages import Stage, build_stage, check_patterns
from mlkit_core.weights import RANDOM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from mlkit_core.config.frame import Part, RunConfig, StageConfig
    from mlkit_core.training.checkpoint import CheckpointInfo
    from mlkit_core.types import FeatureSpec, RoleSpec

Row = dict[str, Any]  # column to a plain value


@dataclass(frozen=True)
class StageView:
    """One stage as tables: the data's inputs, the tensors that parts give, the parts; and notes."""

    name: str
    inputs: list[Row]
    tensors: list[Row]
    parts: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class Description:
    """A run's stages, from forward passes of noise through random weights."""

    run: str
    stages: tuple[StageView, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return tables for a terminal."""
        return self._render(markdown=False)

    def markdown(self) -> str:
        """Return Markdown, for a page of the documentation."""
        return self._render(markdown=True)

    def _render(self, *, markdown: bool) -> str:
        lines: list[str] = []
        for stage in self.stages:
            title = f"## Stage `{stage.name}`" if markdown else f"{self.run}: stage {stage.name}"
            lines += [title, ""]
            for rows in filter(None, (stage.inputs, stage.tensors, stage.parts)):
                lines += [*_table(rows, markdown=markdown), ""]
            lines += [*(f"- {note}" for note in stage.notes), ""]
        return "\n".join(lines[:-1])


def _table(rows: list[Row], *, markdown: bool) -> list[str]:
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    if markdown:
        cells.insert(1, ["---"] * len(cells[0]))
        return [f"| {' | '.join(row)} |" for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe(config: RunConfig) -> Description:
    """Return how data flows through each stage; no data file is read, nothing is downloaded.

    Inputs are noise over the range that the data publishes, at the smallest legal size from 32
    pixels; roles with a lead get 2 x 2 rows. Weights are random; the table of parts says which
    ones the run would load.

    Raises:
        BuildError: Parts do not fit, a cache is refused, or a pattern of `freeze` or `lr_scale`
            matches nothing.
    """
    views: list[StageView] = []
    before: CheckpointInfo | None = None
    for stage in config.stages:
        if stage.data is None or not stage.encoders:
            name = (stage.trainer or stage.extractor or stage).name
            views.append(StageView(stage.name, [], [], [], [f"{name} brings a model of its own"]))
            continue
        built = _build(stage, stage.data, config.seed)
        if before is None and stage.losses:
            check_patterns((built.config, *config.stages[1:]), built)
        views.append(_view(built, stage, before, config.init_from))
        before = built.info(0)  # not the stage: two large models need not lie in memory
    return Description(config.name, tuple(views))


def _build(stage: StageConfig, data: Part, seed: int) -> Stage:
    """Return the stage with random weights; without losses (for an extractor) it only runs."""
    stage = stage.with_random_weights()
    if stage.losses:
        return build_stage(stage, seed)
    built = build_data(data)
    return Stage(stage, built, build_stage_model(stage, built), Losses({}, {}), built.classes)


def _view(
    built: Stage, stage: StageConfig, before: CheckpointInfo | None, init_from: Path | None
) -> StageView:
    model = built.model
    reads = {f"encoders.{role}": [source] for role, source in model.reads.items()}
    for name, (module, _) in built.parts.items():
        if name.startswith(("fusions.", "head")):
            module.register_forward_pre_hook(partial(_listen, reads.setdefault(name, [])))
    batch = synthetic_batch(model, input_needs(model, stage.encoders))
    with evaluating(model):
        output = model(batch)
    tensors = [
        {**_tensor(f"{role}.{name}", tensor), "published": _published(name, model.specs[role])}
        for role, features in output.scope.items()
        for name, tensor in named_tensors(features).items()
    ]
    head = named_tensors(output.head)
    tensors += [{**_tensor(f"head.{n}", t), "published": ""} for n, t in head.items()]
    inputs = [{**_tensor(r, t), "unit": _unit(model.roles[r])} for r, t in batch.inputs.items()]
    parts: list[Row] = []
    for name in built.parts:
        origin = _origin(name, built, stage, before, init_from)
        parts.append(_part(name, built, reads.get(name, []), origin))
    return StageView(stage.name, inputs, tensors, parts, list(_notes(built, stage)))


class _Listening(dict[str, Any]):
    """A scope that writes down which of its roles are looked up."""

    def __init__(self, scope: dict[str, Any], seen: list[str]) -> None:
        super().__init__(scope)
        self.seen = seen

    def __getitem__(self, role: str) -> Any:  # noqa: ANN401  # features
        self.seen += [role] if role not in self.seen else []
        return super().__getitem__(role)


def _listen(seen: list[str], _: nn.Module, args: tuple[dict[str, Any]]) -> tuple[_Listening]:
    return (_Listening(args[0], seen),)


def _tensor(name: str, tensor: Tensor) -> Row:
    low, high = (float(v) for v in tensor.float().aminmax()) if tensor.numel() else (0.0, 0.0)
    return {"tensor": name, "shape": list(tensor.shape), "min": low, "max": high}


def _unit(role: RoleSpec) -> str:
    return f"{role.unit} ({', '.join(role.lead)})".strip() if role.lead else role.unit


def _published(name: str, spec: FeatureSpec) -> str:
    kind, _, level = name.partition(".")
    width = {"vector": spec.vector_dim, "tokens": spec.token_dim}.get(kind)
    said = f"width {width}" if width else ""
    if kind == "maps":
        said = f"{spec.channels.get(level)} channels, stride {spec.strides.get(level)}"
    return f"{said} ({', '.join(spec.lead)})".strip() if spec.lead else said


def _origin(
    name: str,
    built: Stage,
    stage: StageConfig,
    before: CheckpointInfo | None,
    init_from: Path | None,
) -> list[str]:
    """Say where the run takes a part's weights from; here they are random."""
    component = built.info(0).components[name]
    if before is not None and before.components.get(name) == component:
        return [f"weights of stage {before.stage}"]
    known = before is None and init_from is not None
    said = [f"weights of {init_from} where it holds this part"] if known else []
    kind, _, role = name.partition(".")
    if kind == "encoders":
        published = hasattr(built.model.encoders[role], "pretrained_file")
        weights = stage.encoders[role].weights or ("auto" if published else "none")
        said.append(RANDOM if weights == "none" else f"weights: {weights}")
    return said


def _part(name: str, built: Stage, reads: list[str], notes: list[str]) -> Row:
    module, part = built.parts[name]
    label = name.partition(".")[2]
    if isinstance(part, LossPart):
        notes.append(
            f"weight {part.weight:g}, on kind {', '.join(sorted(built.losses.kinds[label]))}"
        )
    if isinstance(part, EncoderPart) and part.cache:
        check_cacheable(built, label)
        notes.append("features cached")
    if isinstance(part, EncoderPart) and part.lora is not None:
        targets = part.lora.targets or getattr(module, "lora_targets", ())
        notes.append(f"LoRA of rank {part.lora.rank} on {', '.join(targets)}")
    said: Row = {"part": name, "component": f"{part.owner}/{part.name}", "reads": ", ".join(reads)}
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    said["trained"] = sum(size for size, trained in sizes if trained)
    said["frozen"] = sum(size for size, trained in sizes if not trained)
    return {**said, "notes": "; ".join(notes)}


def _notes(built: Stage, stage: StageConfig) -> Iterator[str]:
    for kind, (target, upto) in built.data.kinds.items():
        yield f"kind {kind}: {target.__name__}, the model runs up to {upto}"
    rate, scales = stage.optimizer, stage.optimizer.lr_scale
    patterns = [("freeze", p) for p in stage.freeze]
    patterns += [(f"learning rate {rate.lr * factor:g}", p) for p, factor in scales.items()]
    if stage.losses:
        yield f"{rate.name}, learning rate {rate.lr:g}, {rate.schedule}"
    for what, pattern in patterns:
        count = sum(built.named[name].numel() for name in matching(pattern, built.named))
        yield f"{what}: {pattern}, {count:,} parameters"
