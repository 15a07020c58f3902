"""Writes into the docs what the code knows: verbs, hooks, options, and the tutorial's files.

    python tools/docs_tables.py          # writes
    python tools/docs_tables.py --check  # exits with 1 where a page is stale

A page holds `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is replaced. A
fence that begins ` ```python title="mlkit-example/PATH" ` holds that file of `tests/data`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_cli.lazy import load
from mlkit_cli.option_table import option_rows
from mlkit_cli.tree import PLUGIN_VERBS, VERBS
from mlkit_core.plugins import KINDS, MlkitHooks, load_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
OWNERS = ("core", "refdet", "angioseg", "dvis", "cluster")
_TABLE = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FILE = re.compile(
    r'(```\w+ title="(?P<path>mlkit-example/[^"]+)"\n).*?(^```$)', re.DOTALL | re.MULTILINE
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def verbs() -> str:
    """Return the verbs: how each is called, and what it does."""
    rows: list[tuple[str, str]] = []
    for spec in (*VERBS, *PLUGIN_VERBS):
        path = spec.name if spec.group == "mlkit" else f"{spec.group} {spec.name}"
        words = [_usage(parameter) for parameter in load(spec).params if parameter.name != "help"]
        rows.append((f"`{' '.join(['mlkit', path, *words])}`", spec.summary))
    return table(("verb", "does"), rows)


def _usage(parameter: object) -> str:
    name, kind = getattr(parameter, "opts", [""])[0], getattr(parameter, "param_type_name", "")
    metavar = getattr(parameter, "metavar", None)
    word = metavar or name if kind == "argument" else f"{name} {metavar}" if metavar else name
    return word if getattr(parameter, "required", False) else f"[{word}]"


def verb_options() -> str:
    """Return every verb's options with their meaning, one table for each verb."""
    parts: list[str] = []
    for spec in (*VERBS, *PLUGIN_VERBS):
        path = spec.name if spec.group == "mlkit" else f"{spec.group} {spec.name}"
        rows = [
            (f"`{_usage(p).strip('[]')}`", str(getattr(p, "help", "") or ""))
            for p in load(spec).params
            if p.name != "help"
        ]
        parts.append(f"### `mlkit {path}`\n\n{spec.summary}")
        parts += [table(("argument", "meaning"), rows)] if rows else []
    return "\n\n".join(parts)


def hooks() -> str:
    """Return the hooks, each with its page and the first line of its docstring."""
    found = {name: hook for name, hook in vars(MlkitHooks).items() if name.startswith("mlkit_")}
    rows = [
        (f"[`{name}`](hooks/{name}.md)", (inspect.getdoc(hook) or "").partition("\n")[0])
        for name, hook in found.items()
    ]
    return table(("hook", "does"), rows)


def components() -> str:
    """Return all components of the workspace's packages with their options."""
    entries = [entry for entry in load_catalogue().components() if entry.owner in OWNERS]
    entries.sort(key=lambda entry: (KINDS.index(entry.spec.kind), entry.spec.name))
    parts: list[str] = []
    for spec, owner in entries:
        source = f" Source: {spec.source}." if spec.source else ""
        parts.append(f"### `{spec.kind}/{spec.name}`\n\n`{owner}`: {spec.summary}{source}")
        rows = [
            (f"`{option.name}`", option.type, option.default, option.description)
            for option in option_rows(spec)
        ]
        head = ("option", "type", "default", "meaning")
        parts.append(table(head, rows) if rows else "No options.")
    return "\n\n".join(parts)


def flow_angioseg() -> str:
    """Return the way of angioseg's data through the model of `mlkit init angioseg`."""
    return flow("angioseg")


def flow(example: str) -> str:
    """Return the description of an example's run file, without the ranges of noise."""
    from mlkit_core.config import load_config
    from mlkit_core.plugins import import_target
    from mlkit_core.report.describe import Description, describe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(import_target(load_catalogue().find_example(example).text)())
        description = describe(load_config(path))
    stages = [
        replace(
            stage,
            tensors=[
                {k: v for k, v in row.items() if k not in ("min", "max")} for row in stage.tensors
            ],
        )
        for stage in description.stages
    ]
    return Description(description.run, tuple(stages)).markdown()


TABLES: dict[str, Callable[[], str]] = {
    "verbs": verbs,
    "verb-options": verb_options,
    "hooks": hooks,
    "components": components,
    "flow-angioseg": flow_angioseg,
}


def refreshed(text: str) -> str:
    """Return a page with its tables and titled fences as the code and the example say.

    Raises:
        KeyError: A page names a table that there is not.
        FileNotFoundError: A fence names a file that the example lacks.
    """
    text = _TABLE.sub(lambda m: f"{m[1]}\n{TABLES[m['name']]()}\n\n{m[3]}", text)
    return _FILE.sub(lambda m: f"{m[1]}{(DATA / m['path']).read_text()}{m[3]}", text)


def pages() -> list[Path]:
    """Return every page that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are stale."""
    parser = argparse.ArgumentParser(description="Refresh the tables of the docs.")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    stale = [path for path in pages() if refreshed(path.read_text()) != path.read_text()]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'stale' if check else 'written'}", file=sys.stderr)
        if not check:
            path.write_text(refreshed(path.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
