"""The arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN_FILE", help="The run file (YAML).")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its run file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value; may be given again."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", metavar="NAME", help="best, last, or a step's folder name.")
]
