"""The verb `mlkit angioseg baselines`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

_SHOWN = ("dice", "cldice", "sensitivity", "precision")


def baselines(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run's folder.")],
    split: Annotated[str, typer.Option("--split", help="Which part of the data.")] = "val",
    unet: Annotated[
        Path | None,
        typer.Option("--unet", metavar="RUN", help="A U-Net's run on the same frames."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Score what a run has to beat on its own frames, and add the table to its report.

    Frangi's ridge filter, with its threshold chosen on the training frames, and marking everything
    need no training; `mlkit init angioseg-unet` gives a plain U-Net's run file.
    """
    from mlkit_angioseg.baselines.bars import measure_bars, write_table

    bars = measure_bars(run, split, {"unet": unet} if unet is not None else {})
    path = write_table(bars, run)
    if as_json:
        typer.echo(json.dumps(asdict(bars), indent=1))
        return
    width = max(len(name) for name in bars.rows)
    typer.echo(f"{'split ' + split:{width}}  " + "  ".join(f"{name:>11}" for name in _SHOWN))
    for name, values in bars.rows.items():
        cells = (f"{values[column]:11.3f}" for column in _SHOWN)
        typer.echo(f"{name:{width}}  " + "  ".join(cells))
    for note in bars.notes:
        typer.echo(note)
    typer.echo(str(path))
