"""The verb `mlkit refdet enroll`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mlkit_core.errors import InputError


def enroll(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")],
    photos: Annotated[
        Path,
        typer.Argument(
            metavar="REFS", help="Photos of one object, or a folder of such folders by name."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.refset", help="The file to write.")
    ],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
    ] = "best",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Encode photos once: the file stands for them in `find` and `predict`.

    A photo's foreground is its alpha channel, `<name>_mask.png` beside it, or its box in
    boxes.json; else it is guessed. The file fits this run's encoder only, and says so when it
    meets another.
    """
    from mlkit_refdet.episodes.opening import REFSET
    from mlkit_refdet.references.enrolling import check_saved, load_finder
    from mlkit_refdet.references.enrolling import enroll as enrol_photos

    if out.suffix != REFSET:
        raise InputError(f"--out: expected a file ending in {REFSET}, got {out.name!r}")
    finder = load_finder(run, checkpoint)
    check_saved(finder, str(run))
    found = enrol_photos(finder, photos)
    found.save(out)
    shots = (
        [int(v) for v in found.features.valid.sum(1)] if found.features.valid is not None else []
    )
    said = dict(zip(found.names, shots, strict=True))
    if as_json:
        typer.echo(json.dumps({"file": str(out), "objects": said, "encoder": found.encoder}))
        return
    for name, count in said.items():
        typer.echo(f"{name}: {count} photos")
    typer.echo(f"written to {out}")
