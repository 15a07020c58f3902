"""The verbs that exist, from specs alone: this is the help, and it imports not even typer."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from mlkit_cli.catalogue import domain_verbs
from mlkit_core.plugins.specs import CommandSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ABOUT = "Vision models as run files: encoders by role, fusion, head, losses."
OPTIONS = {
    "--version": "Print the version.",
    "--debug": "Show tracebacks; may stand anywhere on the line.",
    "--help": "Show this message; every verb and group has its own.",
}
_WIDTH = 80


def _own(name: str, target: str, summary: str, group: str = "mlkit") -> CommandSpec:
    return CommandSpec(group=group, name=name, target=f"mlkit_cli.verbs.{target}", summary=summary)


VERBS = (
    _own("demo", "demo:demo", "Train, evaluate, predict and report on embedded data."),
    _own("init", "files:init", "Print a run file to start from."),
    _own("check", "files:check", "Validate a run file, without torch."),
    _own("schema", "files:schema", "Print the JSON Schema of run files, for editors."),
    _own("describe", "files:describe", "Show the data's way through the model, stage by stage."),
    _own("train", "train:train", "Train what a run file says."),
    _own("eval", "results:evaluate", "Print the metrics of a run."),
    _own("predict", "results:predict", "Write predictions as JSON, with overlays."),
    _own("export", "results:export", "Export a run's model, and compare it with the original."),
    _own("report", "results:report", "Write a run's HTML report, with curves and pictures."),
    _own("doctor", "doctor:doctor", "Show versions and devices, and run every plugin's checks."),
)
PLUGIN_VERBS = (
    _own("list", "plugins:list_plugins", "Show what is installed, and what failed.", "plugins"),
    _own("show", "plugins:show", "Show one component and its options.", "plugins"),
    _own("new", "new:new", "Write a plugin package to start from.", "plugins"),
)


def verbs() -> dict[str, CommandSpec]:
    """Return the command's own verbs, in the order of the help."""
    return {spec.name: spec for spec in VERBS}


def group(name: str) -> Mapping[str, CommandSpec] | None:
    """Return one group's verbs, or None; `plugins` is known without loading any plugin."""
    if name == "plugins":
        return {spec.name: spec for spec in PLUGIN_VERBS}
    return domain_verbs().get(name)


def groups() -> dict[str, Mapping[str, CommandSpec]]:
    """Return `plugins` and the groups that plugins contribute, each with its verbs."""
    own = {spec.name: spec for spec in PLUGIN_VERBS}
    return {
        "plugins": own,
        **{name: inner for name, inner in domain_verbs().items() if name not in verbs()},
    }


def help_text() -> str:
    """Return what `mlkit --help` prints."""
    sections = {
        "Options": OPTIONS.items(),
        "Verbs": [(spec.name, spec.summary) for spec in VERBS],
        "Groups": [(name, ", ".join(inner)) for name, inner in groups().items()],
    }
    parts = ["Usage: mlkit [OPTIONS] VERB [ARGS]...", f"  {ABOUT}"]
    return "\n\n".join([*parts, *(f"{title}:\n{_rows(rows)}" for title, rows in sections.items())])


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(name) for name, _ in rows) + 4
    return "\n".join(
        textwrap.fill(
            text, _WIDTH, initial_indent=f"  {name:<{width - 2}}", subsequent_indent=" " * width
        )
        for name, text in rows
    )
