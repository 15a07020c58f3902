"""What must hold between the keys of a run file, beyond each value alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.config import explain, fields, frame, merge
from mlkit_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlkit_core.config.tree import Node, Problem
    from mlkit_core.plugins import Catalogue, ComponentSpec

_TRAINING_ONLY = ("losses", "trainer", "optimizer", "freeze", "fresh")


def cross_checks(root: Node, whole: Node, catalogue: Catalogue) -> Iterator[Problem]:
    """Yield what is wrong between the keys of a run file.

    Args:
        root: The file as it stands.
        whole: The same with complete stages.
        catalogue: Tells which trainers have a model of their own.
    """
    yield from _required(whole, "stages")
    yield from _repeated(whole.listed("stages"), "two stages are named {!r}")
    for node in (stage.get(key) for stage in root.listed("stages") for key in merge.OF_RUN[1:]):
        if node:
            yield node.problem("a stage cannot change this; it holds for the whole run")
    for stage in whole.listed("stages"):
        yield from _stage(root, stage, _trainer(stage, catalogue))


def _stage(root: Node, stage: Node, trainer: ComponentSpec | None) -> Iterator[Problem]:
    if stage.get("extractor"):
        for node in filter(None, map(stage.get, _TRAINING_ONLY)):
            yield node.problem("not allowed beside an extractor")
        yield from _required(stage, "data")
    elif trainer and trainer.own_model:
        yield from _ignored({**root.fields, **stage.fields}, trainer)
    elif trainer:
        yield from _required(stage, "data", "model", *["losses"] * trainer.trains)
        idle = () if trainer.trains else ("losses", "optimizer", "freeze", "fresh")
        for node in filter(None, map(stage.get, idle)):
            yield node.problem(f"trainer {trainer.name!r} trains nothing and would ignore this")
    taken = "role {!r} is taken by an encoder or another fusion; write another with `as:`"
    roles = stage.get("model", "encoders")
    fusions = stage.listed("model", "fusion")
    yield from _repeated(fusions, taken, "fused", roles.fields if roles else ())
    twice = "two losses are called {!r}; give one an `as:`"
    yield from _repeated(stage.listed("losses"), twice)
    yield from _repeated(stage.listed("metrics"), "metric {!r} is listed twice")


def _trainer(stage: Node, catalogue: Catalogue) -> ComponentSpec | None:
    name = stage.get("trainer", "name")
    try:
        return catalogue.find("trainer", str(name.value)).spec if name else None
    except PluginError:  # told where the trainer is read
        return None


def _required(tree: Node, *keys: str) -> Iterator[Problem]:
    for key in keys:
        node = tree.get(key)
        if node is None:
            yield tree.problem(explain.MISSING, key)
        elif node.value in ([], {}):
            yield node.problem("needs at least one")


def _ignored(given: dict[str, Node], trainer: ComponentSpec) -> Iterator[Problem]:
    honoured = ("name", "trainer", *trainer.frame_keys)
    why = f"trainer {trainer.name!r} has a model of its own and would ignore this"
    for key in {*fields.keys_of(frame.StageConfig), *merge.OF_RUN} & given.keys() - {*honoured}:
        if given[key].value is not None:
            yield given[key].problem(f"{why}; it honours {', '.join(honoured)}")


def _repeated(
    items: list[Node], message: str, default: str = "", taken: Iterable[str] = ()
) -> Iterator[Problem]:
    """Yield a problem for each item whose label (`as`, else `default`, else its name) is taken."""
    seen = {*taken}
    for item in items:
        said = item.get("as") or (None if default else item.get("name"))
        label = str(said.value).rpartition("/")[2] if said else default
        if label in seen:
            yield item.problem(message.format(label))
        seen |= {label} - {""}
