"""The verb `mlkit dvis convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="MODEL_FINAL", help="A published checkpoint, as .pth.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The run's folder; made anew.")
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="SET|FILE",
            help="ytvis2019, ytvis2021, ovis, or a file of names (a line each, or JSON); "
            "25 classes are ovis' where nothing is said.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Turn a published checkpoint into a run's folder, every key accounted for.

    The folder is one that `mlkit predict`, `mlkit eval`, `mlkit dvis run --weights` and
    `init_from` take. conversion.json in it says what became of each key. To evaluate, name
    annotations in its run.yaml: data.val_annotations and data.val_frames.
    """
    from mlkit_dvis.convert import convert_file

    report = convert_file(checkpoint, out, classes)
    typer.echo(json.dumps(report.summary(), indent=2) if as_json else report.text())
