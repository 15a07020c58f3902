"""`mlkit plugins new`: a plugin package that installs and passes its own test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlkit_cli.output import emit, emit_json, note
from mlkit_cli.skeleton import write_plugin
from mlkit_cli.verbs.options import Json


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As acme: it makes mlkit-acme.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to make the package's folder.")
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Write a plugin package with one component and its test, and print its files."""
    written = write_plugin(name, out)
    if as_json:
        emit_json({"written": written})
        return
    emit("\n".join(str(path) for path in written))
    folder = out / f"mlkit-{name}"
    note(f"next: pip install -e {folder} && pytest {folder}; then `mlkit plugins list` shows it")
