"""How overrides and stages change a run file: both work on trees, before validation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mlkit_core.config.tree import Node, Problem, joined, parse
from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_TRAINER = "supervised"
OF_RUN = ("name", "seed", "init_from", "stages")  # what a file says once, for all stages


def merged(base: Node, over: Node) -> Node:
    """Return `base` with `over` laid on it; neither is changed, scalars are shared.

    Mappings merge, everything else is replaced. A mapping whose `name` changes inherits nothing.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    old, new = base.get("name"), over.get("name")
    if old and new and old.value != new.value:
        return over
    values = dict(base.value)
    for key, node in over.value.items():
        values[key] = merged(values[key], node) if key in values else node
    return replace(base, value=values)


def apply_overrides(root: Node, overrides: Iterable[str], problems: list[Problem]) -> None:
    """Set the values of `key.path=YAML` in place; what cannot be set is added to `problems`."""
    for text in overrides:
        source = f"--set {text}"
        key, equals, value = text.partition("=")
        words = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
        keys = [int(word) if word.isdigit() else word for word in words]
        try:
            if not equals or not all(words):
                example = "expected key.path=value, for example model.head.depth=5"
                raise ConfigError([f"{source}: {example}"])
            _set(root, keys, parse(value, lambda _, source=source: source, joined("", *keys)))
        except ConfigError as err:
            problems += [Problem(line, "", "") for line in err.problems]


def _set(root: Node, keys: list[int | str], node: Node) -> None:
    """Put `node` at `keys`, adding mappings on the way."""
    here = root
    for key in keys:
        if here.value is None:
            here.value = {}
        if isinstance(here.value, list):
            if not isinstance(key, int) or key >= len(here.value):
                raise node.error(f"no item {key}; the list at {here.path!r} has {len(here.value)}")
            here = here.value[key]
        elif isinstance(here.value, dict):
            path = joined(here.path, str(key))
            here = here.value.setdefault(str(key), Node(None, node.source, path))
        else:
            raise node.error(f"{here.path!r} holds no options, got {here.value!r}")
    here.value, here.source = node.value, node.source


def without_effect(root: Node, whole: Node) -> Iterator[Problem]:
    """Yield a problem for each override that every stage replaces by a value of its own."""
    used = {node.source for node in whole.walk()}
    base = (node for key, value in root.fields.items() if key != "stages" for node in value.walk())
    for node in base:
        if node.source.startswith("--set ") and node.value is not None and node.source not in used:
            used.add(node.source)
            yield node.problem(f"every stage sets its own; say stages.0.{node.path}=…")


def with_whole_stages(root: Node) -> Node:
    """Return the file with complete stages: each with all before it merged over the file.

    A file without `stages` has one, named "main". What is no mapping stays, to be refused.
    """
    tree = Node({k: n for k, n in root.fields.items() if k not in OF_RUN}, "", "")
    run = {key: node for key, node in root.fields.items() if key in OF_RUN}
    main = Node({"name": Node("main", root.source, "name")}, root.source, "")
    stages = root.get("stages") or Node([main], root.source, "stages")
    if isinstance(stages.value, list):
        whole: list[Node] = []
        for stage in stages.value:
            own = {key: node for key, node in stage.fields.items() if key not in OF_RUN}
            tree = _named_trainer(merged(_named_trainer(tree), Node(own, "", "")))
            whole.append(_whole(stage, tree) if stage.fields else stage)
        stages = replace(stages, value=whole)
    return replace(root, value={**run, "stages": stages})


def _whole(stage: Node, tree: Node) -> Node:
    """Return the tree as the stage that it stands for: with its name, and with a trainer."""
    name = {key: node for key, node in stage.fields.items() if key == "name"}
    if not tree.get("trainer") and not tree.get("extractor"):
        name["trainer"] = Node({}, stage.source, "trainer")
    return _named_trainer(replace(stage, value={**tree.fields, **name}))


def _named_trainer(tree: Node) -> Node:
    """Give the trainer its default name, so that merging sees where another takes its place."""
    trainer = tree.get("trainer")
    if trainer and isinstance(trainer.value, dict):
        path = joined(trainer.path, "name")
        trainer.value.setdefault("name", Node(DEFAULT_TRAINER, trainer.source, path))
    return tree
