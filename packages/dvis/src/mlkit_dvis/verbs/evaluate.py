"""The verb `mlkit dvis evaluate`: result files against annotations, without a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Found = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS.json", help="YouTube-VIS rows, or the tracks.json of `mlkit dvis run`."
    ),
]
Annotations = Annotated[
    Path,
    typer.Argument(
        metavar="ANNOTATIONS.json", help="A YouTube-VIS JSON; its frames need not be there."
    ),
]
Hota = Annotated[
    bool, typer.Option("--hota", help="Also HOTA, DetA and AssA, by TrackEval (extra `hota`).")
]
Score = Annotated[
    float, typer.Option("--score", min=0, max=1, help="For --hota: from which a track counts.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def evaluate(
    found: Found,
    annotations: Annotations,
    hota: Hota = False,
    score: Score = 0.3,
    as_json: Json = False,
) -> None:
    """Score tracks against annotations: each video, each class, and all together."""
    from mlkit_dvis.metrics.evaluation import score_results

    scores = score_results(found, annotations, hota=score if hota else None)
    if as_json:
        said = {"total": scores.total, "classes": scores.classes, "videos": scores.videos}
        typer.echo(json.dumps(_plain(said), indent=2, ensure_ascii=False, allow_nan=False))
        return
    if scores.left_out:
        name = scores.videos[0]["video"]
        typer.echo(f"{found} is of video {name}: {scores.left_out} others left out", err=True)
    total = [{"total": name, "value": value} for name, value in scores.total.items()]
    tables = (scores.videos, scores.classes, total)
    typer.echo("\n\n".join(_table(rows) for rows in tables if rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys as aligned text under their keys."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.4g}"


def _plain(value: Any) -> Any:  # noqa: ANN401  # plain values, nested
    """Return JSON's own types: NaN, which it lacks, becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
