"""Reads a run file: frame, components, stages; every problem at once, before torch is imported."""

# Values of any option, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mlkit_core import plugins
from mlkit_core.config import checks, explain, merge, tree
from mlkit_core.config.fields import RunFileContext
from mlkit_core.config.frame import RunConfig
from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_config(
    path: Path | str, overrides: Sequence[str] = (), catalogue: plugins.Catalogue | None = None
) -> RunConfig:
    """Return a run file, validated; no heavy module is imported.

    Args:
        path: A YAML file; relative paths in it start at its folder.
        overrides: `model.head.depth=5`, the value read as YAML; set as it stands, not merged.
        catalogue: Of the installed plugins where None.

    Raises:
        ConfigError: Anything is wrong; all problems are listed, by line.
    """
    path, problems = Path(path), list[tree.Problem]()
    root = tree.parse(_text(path), lambda line: f"{path}:{line}")
    if not isinstance(root.value, dict | None):
        raise root.error("a run file must be a mapping of keys")
    merge.apply_overrides(root, overrides, problems)
    context = RunFileContext(
        path.absolute().parent, catalogue or plugins.load_catalogue(), merge.OF_RUN
    )
    whole, config = merge.with_whole_stages(root), None
    try:
        config = RunConfig.model_validate(whole.plain(), context=context)
    except ValidationError as err:
        problems += explain.problems_of(err, whole)
    problems += [
        *merge.without_effect(root, whole),
        *checks.cross_checks(root, whole, context.catalogue),
    ]
    if config is None or problems:
        lines = dict.fromkeys(str(problem) for problem in sorted(problems, key=_line))
        hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
        raise ConfigError(list(lines), hint="; ".join(hints))
    _write_back(whole, config.model_dump(by_alias=True))
    return config.model_copy(update={"resolved": root.plain()})


def _line(problem: tree.Problem) -> float:
    number = problem.source.rpartition(":")[2]
    return int(number) if number.isdigit() else inf  # what was not written in the file is last


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise ConfigError([f"{path}: cannot be read: {err.strerror}"]) from err
    except UnicodeDecodeError as err:
        raise ConfigError([f"{path}: not UTF-8 text: {err.reason} at byte {err.start}"]) from err


def _write_back(node: tree.Node, value: object) -> None:
    """Write resolved paths into the tree, so that the run folder's copy means the same."""
    if isinstance(node.value, str) and isinstance(value, str | Path):
        node.value = str(value)
    elif isinstance(value, list | tuple):
        for child, item in zip(node.listed(), value, strict=False):
            _write_back(child, item)
    elif isinstance(value, Mapping):
        values = {**value, **value.get("options", {})}  # of a part
        for key in node.fields.keys() & values.keys():
            _write_back(node.fields[key], values[key])
