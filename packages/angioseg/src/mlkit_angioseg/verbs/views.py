"""The verb `mlkit angioseg views`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def views(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
    ] = "best",
    channels: Annotated[
        int, typer.Option("--channels", min=0, metavar="N", help="Channels that have a picture.")
    ] = 8,
    view: Annotated[
        list[str],
        typer.Option(
            "--view",
            metavar="P,S",
            help="Compare all embeddings with this one, degrees; default six usual views.",
        ),
    ] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Draw into a run's report what each view does to its features.

    RUN gets pictures/views (FiLM's gamma and beta over the angles, and the view embedding's
    cosine with chosen views) and tables/views.json (the channels that move most).
    """
    from mlkit_angioseg.views.report import USUAL_VIEWS, Wanted, write_views

    chosen = tuple(_view(text) for text in view) or USUAL_VIEWS
    wanted = Wanted(checkpoint=checkpoint, channels=channels, views=chosen)
    said = write_views(run, wanted)
    typer.echo(json.dumps(said, indent=1) if as_json else _text(said))


def _view(text: str) -> tuple[float, float]:
    from mlkit_core.errors import InputError

    try:
        primary, secondary = (float(part) for part in text.split(","))
    except ValueError as err:
        raise InputError(f"--view: expected PRIMARY,SECONDARY in degrees, got {text!r}") from err
    return primary, secondary


def _text(said: dict) -> str:
    lines = [said["text"]] if said["rows"] else ["no FiLM conditions a map by the view"]
    for row in said["rows"][:8]:
        fusion, level, channel, _, low, high, lowest, highest = row[:8]
        lines.append(
            f"{fusion} {level} channel {channel}: gamma {low:+.3f} at {lowest}, "
            f"{high:+.3f} at {highest}"
        )
    return "\n".join([*lines, f"written to {said['pictures']}; `mlkit report` shows them"])
