"""Verbs that compare images by losses: distances, merge, drift."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit_cluster.verbs.console import LOG, Ticker, emit, resumable, set_log_level, table
from mlkit_cluster.verbs.options import (
    Address,
    Device,
    Engine,
    Json,
    Level,
    ModelFile,
    RunFolder,
    Seed,
    ShardOption,
    Source,
    Workers,
)

Kernel = Annotated[
    Literal["auto", "numba", "torch", "criterion"],
    typer.Option("--kernel", help="criterion: ultralytics' own loss, pair by pair, slowly."),
]


def distances(
    run: RunFolder,
    components: Annotated[
        str, typer.Option("--components", metavar="LIST", help="As box,cls,dfl; default all.")
    ] = "",
    knn: Annotated[
        int | None,
        typer.Option(
            "--knn",
            min=0,
            metavar="K",
            help="Only edges, K kept in the tables; 0: all pairs; default beyond 20,000 images.",
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="Images near by embedding, with --knn.")
    ] = 200,
    kernel: Kernel = "auto",
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Between kernel and ultralytics.")
    ] = 1e-5,
    model: ModelFile = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 8,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = 2,
    ray_address: Address = None,
    shard: ShardOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget distances of other settings or images.")
    ] = False,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Compute the loss of every image's output against every image's predictions.

    dist[i][j] is the loss of image i's raw output with image j's predictions as targets. One
    forward pass for each image. Before anything is computed, the kernel is compared with the
    installed ultralytics. A stopped call goes on, and loses one block of 64 rows at most.
    """
    set_log_level(log_level)
    from mlkit_cluster.distances.shard import parse_shard
    from mlkit_cluster.engines import make_engine
    from mlkit_cluster.steps.distances import DistanceWish
    from mlkit_cluster.steps.distances import distances as compute
    from mlkit_cluster.store.database import open_run
    from mlkit_cluster.store.entries import matrix_ids

    wish = DistanceWish(
        components=tuple(part.strip() for part in components.split(",") if part.strip()),
        knn=knn,
        candidates=candidates,
        kernel=kernel,
        tolerance=tolerance,
        device=device,
        model=model,
        batch_size=batch_size,
        replace=replace,
    )
    with open_run(run, readonly=True) as store:
        count = len(matrix_ids(store))
    with resumable():
        found = compute(
            run,
            wish,
            engine=make_engine(engine, workers, ray_address),
            shard=parse_shard(shard),
            tell=Ticker("rows", each=min(knn or count, count), of="pairs"),
        )
    checked = found.conformance
    emit(
        {
            "run": str(found.folder),
            "images": found.images,
            "rows computed now": found.rows,
            "mode": found.mode,
            "components": ", ".join(found.components),
            "compared with ultralytics, pairs": checked.pairs if checked else None,
            "largest relative difference": checked.max_error if checked else None,
            **({"recall@10 of the candidates": found.recall} if found.mode == "knn" else {}),
        },
        as_json=as_json,
    )


def merge(run: RunFolder, as_json: Json = False, log_level: Level = "info") -> None:
    """Join what the jobs of a job array have written: images first, then blocks of distances."""
    set_log_level(log_level)
    from mlkit_cluster.steps.merging import merge as join

    found = join(run)
    emit(found, as_json=as_json)
    if found["rows missing"]:
        LOG.warning("not all is there yet: run the jobs that are missing, then merge again")


def drift(
    run: RunFolder,
    source: Source,
    model: ModelFile = None,
    kernel: Kernel = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 8,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = 2,
    ray_address: Address = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="CSV", help="Every new image, in full.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Farthest images to print.")] = 10,
    seed: Seed = 0,
    as_json: Json = False,
    log_level: Level = "info",
) -> None:
    """Say whether new images lie farther from a run's images than those from each other."""
    set_log_level(log_level)
    from mlkit_cluster.engines import make_engine
    from mlkit_cluster.steps.distances import DistanceWish
    from mlkit_cluster.steps.drift import drift as compare

    wish = DistanceWish(kernel=kernel, device=device, model=model, batch_size=batch_size)
    found = compare(
        run,
        source,
        wish,
        engine=make_engine(engine, workers, ray_address),
        seed=seed,
        tell=Ticker("images"),
    )
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found.rows[0]))
            writer.writeheader()
            writer.writerows(found.rows)
    if as_json:
        emit({**found.summary, "images_farthest_first": found.rows}, as_json=True)
        return
    emit(found.summary)
    if top:
        emit(f"\n{table(found.rows[:top])}")
