"""The data's way through the model, stage by stage: one real forward of a made-up batch."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from mlkit_core.build import Losses, build_data, build_stage_model, input_needs
from mlkit_core.synthetic import named_tensors, ramp, synthetic_batch
from mlkit_core.tensors import flatten
from mlkit_core.training.cache import check_cacheable
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.parts import matching
from mlkit_core.training.stages import Stage, build_stage, check_patterns, parts_of
from mlkit_core.weights import RANDOM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from mlkit_core.config.frame import RunConfig, StageConfig
    from mlkit_core.model import Model
    from mlkit_core.types import FeatureSpec

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class TensorView:
    """One tensor: name, shape, smallest and largest value, and what its part publishes of it."""

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class PartView:
    """One part: what it reads and gives, how many parameters are trained and frozen, and notes."""

    name: str
    component: str
    reads: tuple[str, ...]
    gives: tuple[TensorView, ...]
    trained: int
    frozen: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageView:
    """One stage: the data's inputs, its parts in the order of the forward pass, and notes."""

    name: str
    inputs: tuple[TensorView, ...]
    parts: tuple[PartView, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """A run's stages; every number comes from a forward pass of made-up inputs, random weights."""

    run: str
    stages: tuple[StageView, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return tables for a terminal."""
        return self._render(lambda name: f"\nstage {name}", _aligned, "  - ")

    def markdown(self) -> str:
        """Return Markdown, for a page of the documentation."""
        return self._render(lambda name: f"\n## Stage `{name}`\n", _piped, "- ")

    def _render(
        self, title: Callable[[str], str], table: Callable[[Rows], str], bullet: str
    ) -> str:
        blocks = [f"run {self.run}: {len(self.stages)} stage{'s' * (len(self.stages) != 1)}"]
        for stage in self.stages:
            blocks.append(title(stage.name))
            blocks += [table(rows) + "\n" for rows in _tables(stage)]
            shared: dict[str, list[str]] = {}
            for part in stage.parts:
                for note in part.notes:
                    shared.setdefault(note, []).append(part.name)
            notes = [f"{', '.join(names)}: {note}" for note, names in shared.items()]
            blocks += [f"{bullet}{note}" for note in (*stage.notes, *notes)]
        return "\n".join(blocks)


def _tables(stage: StageView) -> list[Rows]:
    inputs: Rows = [("input", "shape", "range", "unit")]
    inputs += [(t.name, _sizes(t.shape), f"{t.low:g}..{t.high:g}", t.note) for t in stage.inputs]
    flow: Rows = [("part", "component", "reads", "gives", "shape", "min..max", "published")]
    for part in stage.parts:
        mine = (part.name, part.component, ", ".join(part.reads))
        for t in part.gives:
            flow.append((*mine, t.name, _sizes(t.shape), f"{t.low:.3g}..{t.high:.3g}", t.note))
            mine = ("", "", "")
    counts: Rows = [("parameters", "trained", "frozen")]
    counts += [(p.name, f"{p.trained:,}", f"{p.frozen:,}") for p in stage.parts]
    total = (sum(p.trained for p in stage.parts), sum(p.frozen for p in stage.parts))
    counts.append(("all", *(f"{n:,}" for n in total)))
    return [rows for rows in (inputs, flow, counts) if len(rows) > 1 and stage.parts]


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _aligned(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _piped(rows: Rows) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def describe(config: RunConfig) -> Description:
    """Return how data flows through each stage; no data file is read, nothing is downloaded.

    Inputs are ramps over the range that the data publishes, at the smallest legal size from 32
    pixels; roles with a lead get 2 x 2 rows. Encoders have random weights; the notes say which
    weights the run would load.

    Raises:
        BuildError: Parts do not fit, or a pattern of `freeze` or `lr_scale` matches nothing.
    """
    views: list[StageView] = []
    for index, stage in enumerate(config.stages):
        before = config.stages[index - 1] if index else None
        if stage.data is None or not stage.encoders:
            maker = stage.trainer or stage.extractor
            note = f"{maker.name if maker else 'the trainer'} brings a model of its own"
            views.append(StageView(stage.name, (), (), (note,)))
            continue
        built = _build(stage, config.seed)
        if index == 0 and stage.losses:
            check_patterns((built.config, *config.stages[1:]), built)
        views.append(_describe_stage(built, stage, before, config))
    return Description(config.name, tuple(views))


def _build(config: StageConfig, seed: int) -> Stage:
    random = {role: replace(part, weights="none") for role, part in config.encoders.items()}
    config = replace(config, encoders=random)
    if config.losses:
        return build_stage(config, seed)
    data = build_data(config.data)  # pyright: ignore[reportArgumentType]  # checked by describe
    model, none = build_stage_model(config, data), Losses(nn.ModuleDict(), {}, {})
    return Stage(config, data, model, none, tuple(data.classes), {}, set())


def _describe_stage(
    built: Stage, config: StageConfig, before: StageConfig | None, run: RunConfig
) -> StageView:
    model, roles = built.model, built.data.roles
    batch = synthetic_batch(roles, input_needs(model, config.encoders), ramp)
    reads = {f"encoders.{role}": [source] for role, source in model.reads.items()}
    with _noting_reads(model, reads), evaluating(model):
        output = model(batch)
    gives = {
        f"{'encoders' if role in model.encoders else 'fusions'}.{role}": _views(
            {f"{role}.{n}": t for n, t in flatten(features).items()}, model.specs[role]
        )
        for role, features in output.scope.items()
    }
    gives["head"] = _views(named_tensors(output.head))
    inputs = tuple(
        replace(view, note=" ".join((roles[view.name].unit, *_lead(roles[view.name].lead))).strip())
        for view in _views(batch.inputs)
    )
    parts: list[PartView] = []
    for name, part in parts_of(config).items():
        own = [p for n, p in built.named.items() if n.startswith(f"{name}.")]
        trained = sum(p.numel() for p in own if p.requires_grad)
        frozen = sum(p.numel() for p in own) - trained
        notes = (*_start_notes(name, built, config, before, run), *_part_notes(name, built, config))
        read, component = tuple(reads.get(name, ())), f"{part.owner}/{part.name}"
        parts.append(PartView(name, component, read, gives.get(name, ()), trained, frozen, notes))
    return StageView(config.name, inputs, tuple(parts), tuple(_stage_notes(built, config)))


class _Noting(dict[str, Any]):
    """A scope that writes down which roles are read from it."""

    def __init__(self, scope: Mapping[str, Any], seen: list[str]) -> None:
        super().__init__(scope)
        self._seen = seen

    def __getitem__(self, role: str) -> Any:  # noqa: ANN401  # features
        if role not in self._seen:
            self._seen.append(role)
        return super().__getitem__(role)


@contextmanager
def _noting_reads(model: Model, reads: dict[str, list[str]]) -> Iterator[None]:
    """Add to `reads` which roles each fusion and the head look up."""
    readers = {f"fusions.{role}": module for role, module in model.fusions.items()}
    readers |= {"head": model.head} if model.head is not None else {}

    def listen(name: str, module: nn.Module) -> RemovableHandle:
        seen = reads.setdefault(name, [])
        return module.register_forward_pre_hook(lambda _, args: (_Noting(args[0], seen),))

    handles = [listen(name, module) for name, module in readers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _views(
    tensors: Mapping[str, Tensor], spec: FeatureSpec | None = None
) -> tuple[TensorView, ...]:
    views: list[TensorView] = []
    for name, tensor in tensors.items():
        values = tensor.float() if tensor.numel() else tensor.new_zeros(1)
        low, high = float(values.min()), float(values.max())
        note = _published(name.partition(".")[2], spec) if spec is not None else ""
        views.append(TensorView(name, tuple(tensor.shape), low, high, note))
    return tuple(views)


def _published(name: str, spec: FeatureSpec) -> str:
    kind, _, level = name.partition(".")
    if kind == "maps":
        said = [f"{spec.channels.get(level)} channels, stride {spec.strides.get(level)}"]
    else:
        width = {"vector": spec.vector_dim, "tokens": spec.token_dim}.get(kind)
        said = [f"width {width}"] if width else []
    return " ".join((*said, *_lead(spec.lead)))


def _lead(lead: Sequence[str]) -> list[str]:
    return [f"({', '.join(lead)})"] if lead else []


def _start_notes(
    name: str, built: Stage, config: StageConfig, before: StageConfig | None, run: RunConfig
) -> list[str]:
    """Say where the run gets a part's weights; here they are random."""
    now, then = parts_of(config)[name], parts_of(before).get(name) if before is not None else None
    if then is not None and before is not None and (then.owner, then.name) == (now.owner, now.name):
        return [f"weights carried over from stage {before.name}"]
    said = [f"weights from {run.init_from} where it holds this part"] if run.init_from else []
    role = name.removeprefix("encoders.")
    if before is not None or role == name:
        said = ["starts anew"] if before is not None else said
    if role != name:
        published = callable(getattr(built.model.encoders[role], "pretrained_file", None))
        choice = config.encoders[role].weights or ("auto" if published else "none")
        said.append(f"weights: {choice}" if choice != "none" else RANDOM)
    return said


def _part_notes(name: str, built: Stage, config: StageConfig) -> list[str]:
    kind, _, role = name.partition(".")
    if kind == "losses":
        ran = ", ".join(sorted(built.losses.kinds[role]))
        return [f"weight {built.losses.weights[role]:g}, on kind {ran}"]
    if kind != "encoders":
        return []
    part, notes = config.encoders[role], list[str]()
    if part.cache:
        notes.append("features are cached" if role in check_cacheable(built) else "")
    if part.lora is not None:
        targets = part.lora.targets or getattr(built.model.encoders[role], "lora_targets", ())
        notes.append(f"LoRA of rank {part.lora.rank} on {', '.join(targets)}")
    return notes


def _stage_notes(built: Stage, config: StageConfig) -> Iterator[str]:
    for kind, (target, upto) in built.data.kinds.items():
        yield f"kind {kind}: {target.__name__}, the model runs up to {upto}"
    for pattern in config.freeze:
        yield f"freeze {pattern}: {_count(pattern, built)}"
    rate = config.optimizer
    yield f"{rate.name}, learning rate {rate.lr:g}, {rate.schedule}"
    for pattern, factor in rate.lr_scale.items():
        scaled = f"learning rate {rate.lr * factor:g} (x {factor:g})"
        yield f"{scaled} for {pattern}: {_count(pattern, built)}"


def _count(pattern: str, built: Stage) -> str:
    names = matching(pattern, built.named)
    count = sum(built.named[name].numel() for name in names)
    return f"{count:,} parameters" if names else "nothing in this stage"
