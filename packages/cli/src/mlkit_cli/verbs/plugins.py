"""`mlkit plugins list` and `show`: what is installed, with status, and what an option means."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mlkit_cli.catalogue import installed
from mlkit_cli.listing import print_plugins
from mlkit_cli.option_table import option_rows
from mlkit_cli.output import columns, emit, emit_json
from mlkit_cli.verbs.options import Json
from mlkit_core.errors import InputError
from mlkit_core.plugins import KINDS, suggest

if TYPE_CHECKING:
    from mlkit_core.plugins import Component


def list_plugins(
    timings: Annotated[
        bool, typer.Option("--timings", help="Show how long each plugin takes to load, in ms.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the plugins with their status, then the components that run files can name."""
    print_plugins(timings=timings, as_json=as_json)


def show(
    component: Annotated[
        str, typer.Argument(metavar="KIND/NAME", help="As encoder/timm, or encoder/core/timm.")
    ],
    as_json: Json = False,
) -> None:
    """Show one component: where it comes from, and its options."""
    entry = find(component)
    options = option_rows(entry.spec)
    if as_json:
        rows = [option._asdict() for option in options]
        emit_json({**asdict(entry.spec), "plugin": entry.owner, "options": rows})
        return
    spec = entry.spec
    lines = [f"{spec.kind}/{spec.name}: {spec.summary}"]
    lines += [f"plugin {entry.owner}, {spec.target}"]
    lines += [f"source {spec.source}"] if spec.source else []
    head = ("OPTION", "TYPE", "DEFAULT", "")
    lines += ["", columns([head, *options])] if options else ["", "no options"]
    emit("\n".join(lines))


def find(component: str) -> Component:
    """Return the component that `kind/name` or `kind/owner/name` names.

    Raises:
        InputError: It does not read so, or the kind is unknown.
        PluginError: There is no such component; the nearest is named.
    """
    kind, slash, name = component.partition("/")
    if not slash:
        raise InputError(f"expected KIND/NAME, got {component!r}", hint="as encoder/timm")
    for known in KINDS:
        if known == kind:
            return installed().find(known, name)
    raise InputError(f"no kind {kind!r}{suggest(kind, KINDS)}")
