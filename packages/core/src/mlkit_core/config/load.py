"""Reads a run file: frame, components, stages; every problem at once, before torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mlkit_core.config.checks import cross_checks
from mlkit_core.config.components import ComponentReader, Slot, absolutise, sites
from mlkit_core.config.explain import problems_of
from mlkit_core.config.frame import (
    EncoderPart,
    FusionPart,
    LoraOptions,
    LossPart,
    OptimizerOptions,
    Part,
    RunConfig,
    StageConfig,
)
from mlkit_core.config.merge import apply_overrides, stage_trees
from mlkit_core.config.model import EncoderEntry, LossEntry, RunFrame
from mlkit_core.config.tree import Node, Problem, parse
from mlkit_core.errors import ConfigError
from mlkit_core.plugins.loader import load_catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.plugins.catalogue import Catalogue


def load_config(
    path: Path | str, overrides: Sequence[str] = (), catalogue: Catalogue | None = None
) -> RunConfig:
    """Return a run file, validated; no heavy module is imported.

    Args:
        path: A YAML file; relative paths in it start at its folder.
        overrides: `model.head.depth=5`, the value read as YAML; set as it stands, not merged.
        catalogue: Of the installed plugins where None.

    Raises:
        ConfigError: Anything is wrong; all problems are listed, by line.
    """
    path, problems = Path(path), list[Problem]()
    root = parse(_text(path), lambda line: f"{path}:{line}", problems)
    if root.value is None:
        root.value = {}
    if not isinstance(root.value, dict):
        raise ConfigError([str(root.problem("a run file must be a mapping of keys"))])
    apply_overrides(root, overrides, problems)
    reader = ComponentReader(catalogue or load_catalogue(), path.absolute().parent, problems)
    trees = stage_trees(root, problems)
    problems += _without_effect(root, [tree for _, tree in trees])
    stages = [_read_stage(name, root, tree, reader) for name, tree in trees]
    if problems:
        lines = [str(problem) for problem in sorted(problems, key=lambda p: p.line)]
        hint = "; ".join(dict.fromkeys(filter(None, reader.hints)))
        raise ConfigError(list(dict.fromkeys(lines)), hint=hint)
    whole = RunFrame.model_validate(trees[0][1].plain(), context=reader.context)
    return RunConfig(
        name=whole.name,
        seed=whole.seed,
        init_from=whole.init_from,
        stages=tuple(stage for stage in stages if stage is not None),
        resolved=root.plain(),
        path=path,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise ConfigError([f"{path}: cannot be read: {err.strerror}"]) from err
    except UnicodeDecodeError as err:
        raise ConfigError([f"{path}: not UTF-8 text: {err.reason} at byte {err.start}"]) from err


def _without_effect(root: Node, trees: Sequence[Node]) -> list[Problem]:
    """Return a problem for each override that every stage replaces by a value of its own."""
    used = {node.source for tree in trees for node in tree.walk()}
    found: dict[str, Problem] = {}
    for key, value in root.fields.items():
        for node in value.walk() if key != "stages" and trees else ():
            from_set = node.source.startswith("--set ") and node.value is not None
            if from_set and node.source not in used:
                message = f"every stage sets its own; say stages.0.{node.path}=…"
                found.setdefault(node.source, node.problem(message))
    return list(found.values())


def _read_stage(name: str, root: Node, tree: Node, reader: ComponentReader) -> StageConfig | None:
    """Return a stage, or None after noting what is wrong with it."""
    frame, before = None, len(reader.problems)
    try:
        frame = RunFrame.model_validate(tree.plain(), context=reader.context)
        absolutise(tree, frame)
    except ValidationError as err:
        reader.problems += problems_of(err, tree, RunFrame)
    read = {site.slot: reader.read(site) for site in sites(tree)}
    parts = {slot: part for slot, part in read.items() if part is not None}
    reader.problems += cross_checks(root, tree, parts.get(("trainer", 0)))
    return _stage(name, frame, parts) if frame and len(reader.problems) == before else None


def _stage(name: str, frame: RunFrame, parts: Mapping[Slot, Part]) -> StageConfig:
    encoders = frame.model.encoders.items() if frame.model else ()
    fusions = enumerate(frame.model.fusion if frame.model else ())
    return StageConfig(
        name=name,
        data=parts.get(("data", 0)),
        encoders={role: _encoder(role, e, parts["encoders", role]) for role, e in encoders},
        fusions=tuple(FusionPart(**vars(parts["fusion", i]), writes=e.as_) for i, e in fusions),
        head=parts.get(("head", 0)),
        losses=tuple(_loss(e, parts["losses", i]) for i, e in enumerate(frame.losses)),
        metrics=tuple(parts["metrics", i] for i in range(len(frame.metrics))),
        freeze=frame.freeze,
        fresh=frame.fresh,
        optimizer=OptimizerOptions(**frame.optimizer.model_dump()),
        trainer=parts.get(("trainer", 0)),
        extractor=parts.get(("extractor", 0)),
    )


def _encoder(role: str, entry: EncoderEntry, part: Part) -> EncoderPart:
    return EncoderPart(
        **vars(part),
        input=entry.input or role,
        cache=entry.cache,
        lora=LoraOptions(**entry.lora.model_dump()) if entry.lora else None,
        weights=str(entry.weights) if entry.weights else None,
    )


def _loss(entry: LossEntry, part: Part) -> LossPart:
    return LossPart(**vars(part), label=entry.as_ or part.name, weight=entry.weight)
