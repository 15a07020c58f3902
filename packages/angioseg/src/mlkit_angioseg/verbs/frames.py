"""The verb `mlkit angioseg frames`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def frames(
    cine: Annotated[
        Path,
        typer.Argument(metavar="CINE", help="A DICOM or NPY cine, or a folder of pictures."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PNG", help="Also write that frame.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Propose the frame of a cine in which the vessels hold the most contrast.

    The score is the mean black top-hat of the frame's darkest thin structures. It says which frame
    is filled best, not whether any is: a cine without contrast has a best frame, too.
    """
    from PIL import Image

    from mlkit_angioseg.cines.contrast import best_frame, contrast_score
    from mlkit_angioseg.cines.reading import open_cine
    from mlkit_angioseg.dicom.header import describe

    opened = open_cine(cine)
    scores = [contrast_score(grey, opened.inside(grey.shape)) for grey in opened]
    best = best_frame(scores, opened.representative)
    if out is not None:
        Image.fromarray((opened.grey(best) * 255).round().astype("uint8")).save(out)
    about = describe(opened.header) if opened.header is not None else {"cine": opened.name}
    named = opened.representative
    if as_json:
        values = {**about, "best_frame": best, "representative_frame": named, "scores": scores}
        typer.echo(json.dumps(values, indent=1))
        return
    highest = max(scores) or 1.0
    for index, score in enumerate(scores):
        mark = " <- proposed" if index == best else ""
        mark += " (the file's representative frame)" if index == named else ""
        typer.echo(f"{index:4d}  {score:.4f}  {'#' * round(30 * score / highest)}{mark}")
