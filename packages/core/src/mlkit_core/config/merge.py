"""How overrides and stages change a run file: both work on trees, before validation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mlkit_core.config.tree import Node, Problem, joined, parse
from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TRAINER = "supervised"
STAGE_FIXED = ("seed", "stages", "init_from")  # what no stage may change; its `name` is its own
_KEY = re.compile(r"[^.\[\]]+(\[\d+\])*(\.[^.\[\]]+(\[\d+\])*)*")


def merged(base: Node, over: Node) -> Node:
    """Return `base` with `over` laid on it; neither is changed, scalars are shared.

    Mappings merge, everything else is replaced. A mapping whose `name` changes inherits nothing.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if _renamed(base, over):
        return over
    values = dict(base.value)
    for key, node in over.value.items():
        values[key] = merged(values[key], node) if key in values else node
    return replace(base, value=values)


def _renamed(base: Node, over: Node) -> bool:
    old, new = base.get("name"), over.get("name")
    names = [node.value for node in (old, new) if node and isinstance(node.value, str)]
    return len(names) == 2 and names[0] != names[1]


def apply_overrides(root: Node, overrides: Sequence[str], problems: list[Problem]) -> None:
    """Set the values of `key.path=YAML` in place; what cannot be set is added to `problems`."""
    for text in overrides:
        source = f"--set {text}"
        key, equals, value = text.partition("=")
        if not equals or not _KEY.fullmatch(key):
            message = "expected key.path=value, for example model.head.depth=5"
            problems.append(Problem(source, "", message))
            continue
        words = re.findall(r"[^.\[\]]+", key)
        keys: list[str | int] = [int(word) if word.isdigit() else word for word in words]
        path = joined("", *keys)
        try:
            node = parse(value, lambda _, source=source: source, problems, path)
        except ConfigError as err:
            problems.append(Problem(err.problems[0], "", ""))
            continue
        message = _set(root, keys, node)
        if message:
            problems.append(Problem(source, path, message))


def _set(root: Node, keys: list[str | int], node: Node) -> str:
    """Put `node` at `keys`, adding mappings on the way; return what is in the way, or nothing."""
    here = root
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(here.value, list):
            if not isinstance(key, int) or key >= len(here.value):
                return f"no item {key}; the list at {here.path!r} has {len(here.value)}"
            if last:
                here.value[key] = node
            here = here.value[key]
            continue
        if here.value is None:
            here.value = {}
        if not isinstance(here.value, dict):
            return f"{here.path!r} holds no options, got {here.value!r}"
        name = str(key)
        if last:
            here.value[name] = node
        elif name not in here.value:
            here.value[name] = Node({}, node.source, joined(here.path, name))
        here = here.value[name]
    return ""


def stage_trees(root: Node, problems: list[Problem]) -> list[tuple[str, Node]]:
    """Return (name, whole tree) of every stage: the file with this and all earlier ones merged.

    A file without `stages` has one, named "main".
    """
    stages = root.get("stages")
    base = {key: node for key, node in root.fields.items() if key != "stages"}
    tree = _named_trainer(replace(root, value=base))
    if stages is None:
        return [("main", _named_trainer(tree, default=True))]
    if not isinstance(stages.value, list) or not stages.value:
        problems.append(stages.problem("input should be a list of at least one stage"))
        return []
    result: list[tuple[str, Node]] = []
    for stage in stages.value:
        if not isinstance(stage.value, dict):
            problems.append(stage.problem(f"input should be a mapping, got {stage.value!r}"))
            continue
        name = _stage_name(stage, [name for name, _ in result], problems)
        tree = _named_trainer(merged(tree, _changes(stage, problems)))
        result.append((name, _named_trainer(tree, default=True)))
    return result


def _stage_name(stage: Node, taken: list[str], problems: list[Problem]) -> str:
    node = stage.get("name")
    if node is None:
        problems.append(stage.problem("required field is missing", "name"))
    elif not isinstance(node.value, str) or not re.fullmatch(r"[\w-]+", node.value):
        message = f"must be letters, digits, '_' and '-' only, got {node.value!r}"
        problems.append(node.problem(message))
    elif node.value in taken:
        problems.append(node.problem(f"two stages are named {node.value!r}"))
    else:
        return node.value
    return "?"


def _changes(stage: Node, problems: list[Problem]) -> Node:
    changes = {key: node for key, node in stage.fields.items() if key != "name"}
    for key in STAGE_FIXED:
        if key in changes:
            problems.append(changes.pop(key).problem(f"a stage cannot change {key!r}"))
    return replace(stage, value=changes)


def _named_trainer(tree: Node, *, default: bool = False) -> Node:
    """Return the tree with a name in its trainer; `default` adds a trainer where there is none."""
    trainer = tree.get("trainer")
    if trainer is None and default and tree.get("extractor") is None:
        trainer = replace(tree, value={}, path="trainer")
    if trainer is None or not isinstance(trainer.value, dict) or "name" in trainer.value:
        return tree
    name = replace(trainer, value=DEFAULT_TRAINER, path=joined(trainer.path, "name"))
    named = replace(trainer, value={"name": name, **trainer.value})
    return replace(tree, value={**tree.fields, "trainer": named})
