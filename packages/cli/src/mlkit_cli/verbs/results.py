"""Verbs that read a finished or running run: eval, predict, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlkit_cli.output import columns, emit, emit_json, note, number
from mlkit_cli.verbs.options import Checkpoint, Json, Run
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def evaluate(
    run: Run,
    split: Annotated[str, typer.Option("--split", help="Which part of the data.")] = "val",
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
) -> None:
    """Print the metrics of a run; with --json also those of each item."""
    from mlkit_core.run import load_run

    evaluation = load_run(run).evaluate(split, checkpoint)
    if as_json:
        emit_json({"split": split, "metrics": evaluation.metrics, "rows": evaluation.rows})
        return
    emit(columns([(name, number(value)) for name, value in evaluation.metrics.items()]))


def predict(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write.")],
    inputs: Annotated[
        list[str],
        typer.Option("--input", metavar="ROLE=PATH", help="What a role reads; once for each role."),
    ],
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
) -> None:
    """Write predictions as JSON, with overlays, and print what was written."""
    paths = parse_inputs(inputs)
    from mlkit_core.run import load_run

    written = load_run(run).predict(paths, out, checkpoint)
    if as_json:
        emit_json({"written": written})
    else:
        emit("\n".join(str(path) for path in written))


def parse_inputs(inputs: Sequence[str]) -> dict[str, Path]:
    """Return role to path, or to a literal that the data understands (`view=30,-20`).

    Raises:
        InputError: One does not read `role=path`, or a role comes twice.
    """
    paths: dict[str, Path] = {}
    for item in inputs:
        role, equals, path = item.partition("=")
        if not (role and equals and path):
            raise InputError(f"--input: expected role=path, got {item!r}", hint="as image=frames/")
        if role in paths:
            raise InputError(f"--input: role {role!r} is given twice")
        paths[role] = Path(path)
    return paths


def export(
    run: Run,
    target: Annotated[str, typer.Option("--format", help="The form to export to: onnx.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Default: model.onnx in the run folder."),
    ] = None,
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
) -> None:
    """Export a run's model, load it again, and print how far it is from the original."""
    if target != "onnx":
        raise InputError(f"--format: no format {target!r}", hint="there is: onnx")
    from mlkit_core.export import export_onnx
    from mlkit_core.run import load_run

    exported = export_onnx(load_run(run), out, checkpoint)
    every = [exported, *exported.encoders.values()]
    if as_json:
        encoders = {
            role: {"path": one.path, "max_difference": one.max_difference}
            for role, one in exported.encoders.items()
        }
        told = {"path": exported.path, "max_difference": exported.max_difference}
        emit_json(told | ({"encoders": encoders} if encoders else {}))
        return
    for one in every:
        emit(str(one.path))
        note(f"largest difference to the original: {one.max_difference:.2e}")


def report(run: Run, as_json: Json = False) -> None:
    """Write a run's report, one self-contained HTML file, and print where it is."""
    from mlkit_core.report import write_report
    from mlkit_core.run import load_run

    path = write_report(load_run(run).folder)
    if as_json:
        emit_json({"path": path})
    else:
        emit(str(path))
