"""Verbs around run files: init, check, schema, describe. None but describe imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mlkit_cli.catalogue import installed
from mlkit_cli.output import columns, emit, emit_json
from mlkit_cli.verbs.options import Json, Overrides, RunFile
from mlkit_core.errors import ConfigError
from mlkit_core.plugins import import_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.config.frame import StageConfig


def init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which one; without it, all are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a run file to start from: `mlkit init NAME > run.yaml`."""
    examples = installed().examples
    if name is not None:
        example = installed().find_example(name)
        text: str = import_target(example.text)()
        emit_json({"name": name, "text": text}) if as_json else emit(text.rstrip("\n"))
    elif as_json:
        emit_json([{"name": spec.name, "summary": spec.summary} for spec in examples])
    else:
        emit(columns([(spec.name, spec.summary) for spec in examples]))


def check(run_file: RunFile, overrides: Overrides = [], as_json: Json = False) -> None:
    """Validate a run file and say what it holds; every problem at once, with its line."""
    from mlkit_core.config import load_config

    try:
        config = load_config(run_file, overrides)
    except ConfigError as err:
        if as_json:
            emit_json({"ok": False, "problems": err.problems})
        raise
    stages = [stage_summary(stage) for stage in config.stages]
    if as_json:
        emit_json({"ok": True, "problems": [], "name": config.name, "stages": stages})
    else:
        emit("\n".join([f"{run_file}: ok", *(f"  {stage_line(stage)}" for stage in stages)]))


def stage_summary(stage: StageConfig) -> dict[str, object]:
    """Return the names of a stage's parts, as plain values."""
    return {
        "stage": stage.name,
        "data": stage.data.name if stage.data else None,
        "encoders": {role: part.name for role, part in stage.encoders.items()},
        "fusions": {part.writes: part.name for part in stage.fusions},
        "head": stage.head.name if stage.head else None,
        "losses": {part.label: part.weight for part in stage.losses},
        "metrics": [part.name for part in stage.metrics],
        "trainer": stage.trainer.name if stage.trainer else None,
        "extractor": stage.extractor.name if stage.extractor else None,
    }


def stage_line(summary: Mapping[str, Any]) -> str:
    """Return a stage's summary as one line, without what it does not have."""
    parts = [f"stage {summary['stage']}"]
    for name, value in summary.items():
        if name == "stage" or not value:
            continue
        match value:
            case str():
                said = value
            case list():
                said = ", ".join(cast("list[str]", value))
            case _:
                said = ", ".join(f"{key}={item}" for key, item in value.items())
        parts.append(f"{name} {said}")
    return "; ".join(parts)


def schema() -> None:
    """Print the JSON Schema of run files with all installed components, for editors."""
    from mlkit_core.config import schema

    emit_json(schema())


def describe(
    run_file: RunFile,
    overrides: Overrides = [],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a page of documentation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the data's way through the model: tensors, shapes, ranges, parameters, losses."""
    from mlkit_core.config import load_config
    from mlkit_core.report.describe import describe

    description = describe(load_config(run_file, overrides))
    if as_json:
        emit_json(description.as_dict())
    else:
        emit(description.markdown() if markdown else description.text())
