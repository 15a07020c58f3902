"""The arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit_cluster.verbs.console import LogLevel

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, or its run.db.")
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="A folder of images, a list of them, or a data set YAML."
    ),
]
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="A YOLO checkpoint, or a training run's folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Level = Annotated[
    LogLevel, typer.Option("--log-level", help="How much to tell on stderr.", show_default=True)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda:0, …; auto takes a GPU if any.")]
Engine = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="This process, or a Ray cluster.")
]
Address = Annotated[
    str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Of a running cluster.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Threads that read ahead; with ray, its actors.")
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="K/N", help="Part K of N for a job array; `merge` joins them."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")]
