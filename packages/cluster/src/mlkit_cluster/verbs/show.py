"""Verbs that show and check a run: report, export, sql, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit_cluster.verbs.console import emit, set_log_level, table
from mlkit_cluster.verbs.options import Device, Json, Level, ModelFile, RunFolder


def report(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="HTML", help="Default report.html in the run."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it at 127.0.0.1, with images from the disk.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8123,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Write one HTML page to look at a run; it needs no network and no server."""
    set_log_level(log_level)
    from mlkit_cluster.report import serve_report, write_report
    from mlkit_cluster.store.database import run_folder

    folder = run_folder(run)
    if serve:
        serve_report(folder, port, title=title)
        return
    path = write_report(folder, out or folder / "report.html", title=title)
    emit({"report": str(path)} if as_json else str(path), as_json=as_json)


def export(
    run: RunFolder,
    form: Annotated[
        Literal["fiftyone", "coco", "csv", "parquet", "seed-sqlite"],
        typer.Option("--format", help="What to write."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PATH", help="File; a folder for fiftyone.")
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="LIST", help="Only these: one path of the run a line."),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Of seed-sqlite: all, however many images.")
    ] = False,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Write a run's results in the form of other tools.

    seed-sqlite writes two databases into the folder OUT: EMB.db and DIST.db.
    """
    set_log_level(log_level)
    from mlkit_cluster.steps.exporting import export as write

    written = write(run, form, out, images=images, all_pairs=all_pairs)
    paths = [str(path) for path in written]
    emit({"written": paths} if as_json else "\n".join(paths), as_json=as_json)


def sql(
    run: RunFolder,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT.")],
    as_json: Json = False,
) -> None:
    """Ask the run's database; nothing can be changed by it.

    mlkit_json(blob) gives features as text, mlkit_dist(i, j, component) a distance of two images.
    """
    from mlkit_cluster.store.sql import run_sql

    found = run_sql(run, query)
    emit(found.records() if as_json else table(found.records()), as_json=as_json)


def validate(
    run: RunFolder,
    distances: Annotated[
        Path | None,
        typer.Argument(metavar="DIST.db", help="With EMB.db as RUN: the earlier two files."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="Extracted again.")] = 5,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Losses computed again.")] = 20,
    model: ModelFile = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Recompute and check what a run holds; exit code 1 where something is wrong."""
    set_log_level(log_level)
    from mlkit_cluster.steps.validating import validate as check

    found = check(run, distances, images=images, pairs=pairs, model=model, device=device, seed=seed)
    wrong = [one for one in found if not one.ok]
    rows = [
        {"ok": one.ok, "check": one.check, "detail": one.detail}
        for one in (found if as_json else [*wrong, *(one for one in found if one.ok)])
    ]
    if as_json:
        emit({"ok": not wrong, "checks": rows}, as_json=True)
    else:
        emit(table([{**row, "ok": "ok" if row["ok"] else "WRONG"} for row in rows]))
    if wrong:
        raise typer.Exit(1)
