"""What must hold between the keys of a run file, beyond each value alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.config.components import listed
from mlkit_core.config.explain import MISSING
from mlkit_core.config.model import RunFrame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_core.config.frame import Part
    from mlkit_core.config.tree import Node, Problem

_TRAINING_ONLY = ("losses", "trainer", "optimizer", "freeze", "fresh")


def cross_checks(root: Node, tree: Node, trainer: Part | None) -> Iterator[Problem]:
    """Yield what is wrong between the keys of a stage.

    Args:
        root: The whole file.
        tree: The stage, merged.
        trainer: None for a stage with an extractor, or where the trainer is itself wrong.
    """
    if tree.get("extractor") is not None:
        for node in filter(None, map(tree.get, _TRAINING_ONLY)):
            yield node.problem("not allowed beside an extractor")
        yield from _required(tree, ("data",))
    elif trainer is not None and trainer.spec.own_model:
        yield from _own_model(root, tree, trainer)
    elif trainer is not None:
        yield from _required(tree, ("data", "model", "losses"))
        losses = tree.get("losses")
        if losses is not None and losses.value == []:
            yield losses.problem("needs at least one loss")
    yield from _labels(tree)


def _required(tree: Node, keys: tuple[str, ...]) -> Iterator[Problem]:
    for key in keys:
        if tree.get(key) is None:
            yield tree.problem(MISSING, key)


def _own_model(root: Node, tree: Node, trainer: Part) -> Iterator[Problem]:
    honoured = ("name", "trainer", *trainer.spec.frame_keys)
    for key, node in {**root.fields, **tree.fields}.items():
        known = key in RunFrame.model_fields and node.value is not None
        if known and key not in honoured:
            yield node.problem(
                f"trainer {trainer.name!r} has a model of its own and would ignore this; "
                f"it honours {', '.join(honoured)}"
            )


def _labels(tree: Node) -> Iterator[Problem]:
    encoders = tree.get("model", "encoders")
    roles = set(encoders.fields) if encoders else set[str]()
    for label, node, again in _repeats(listed(tree.get("model", "fusion")), "fused"):
        if label in roles:
            yield node.problem(f"an encoder fills role {label!r}; write another with `as:`")
        elif again:
            yield node.problem(f"two fusions write role {label!r}; give one another `as:`")
    for label, node, again in _repeats(listed(tree.get("losses")), None):
        if again:
            yield node.problem(f"two losses are called {label!r}; give one an `as:`")
    for label, node, again in _repeats(listed(tree.get("metrics")), None):
        if again:
            yield node.problem(f"metric {label!r} is listed twice")


def _repeats(nodes: list[Node], default: str | None) -> Iterator[tuple[str, Node, bool]]:
    """Yield each item's label (`as`, else `default`, else its bare name) and whether it repeats."""
    seen: set[str] = set()
    for node in nodes:
        name = node.get("as") or node.get("name")
        if name is None or not isinstance(name.value, str):
            continue
        label = name.value if node.get("as") else default or name.value.rpartition("/")[2]
        yield label, node, label in seen
        seen.add(label)
