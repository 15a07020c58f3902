"""A run file as a tree that remembers where every value was written."""

# Ruamel has no types, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TAG = "tag:yaml.org,2002:"
# YAML 1.2 knows no dates and no "=": such words are plain strings.
_STRINGS = {f"{_TAG}timestamp", f"{_TAG}value"}
_SCALARS = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str")}


class Problem(NamedTuple):
    """One thing that is wrong: where it was written, its path, what."""

    source: str
    path: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))

    @property
    def line(self) -> float:
        """The line in the file, to sort by; what comes from `--set` is last."""
        line = self.source.rpartition(":")[2]
        return int(line) if line.isdigit() and not self.source.startswith("--set") else inf


@dataclass
class Node:
    """A value and its origin: `source` reads `run.yaml:12` or `--set a.b=1`."""

    value: dict[str, Node] | list[Node] | str | float | bool | None
    source: str
    path: str

    def plain(self) -> Any:  # noqa: ANN401  # as the YAML says
        """Return the value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def get(self, *keys: str) -> Node | None:
        """Return the node under these keys, None where there is none or its value is null."""
        node: Node | None = self
        for key in keys:
            node = node.fields.get(key) if node else None
        return node if node is not None and node.value is not None else None

    @property
    def fields(self) -> dict[str, Node]:
        """The nodes of a mapping by key; nothing where the value is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.value if isinstance(self.value, list) else self.fields.values():
            yield from child.walk()

    def problem(self, message: str, *below: str | int) -> Problem:
        """Return a problem of this value, or of something missing below it."""
        return Problem(self.source, joined(self.path, *below), message)


def joined(path: str, *keys: str | int) -> str:
    """Return `path` with keys appended as `.key` and indices as `[0]`."""
    for key in keys:
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else key
    return path


def locate(root: Node, keys: Sequence[str | int]) -> tuple[Node, list[str | int]]:
    """Return the deepest node along `keys`, and the keys that lead nowhere.

    Keys in between that name no value (pydantic's marks of unions and of single items) are passed
    over; those that are left behind the last node are returned.
    """
    rest: list[str | int] = []
    for key in keys:
        items = enumerate(root.value) if isinstance(root.value, list) else root.fields.items()
        child = dict[str | int, Node](items).get(key)
        if child is not None:
            root, rest = child, []
        else:
            rest.append(key)
    return root, rest


def parse(text: str, source: Callable[[int], str], problems: list[Problem], path: str = "") -> Node:
    """Return the tree of a YAML text; repeated keys and unknown tags are added to `problems`.

    Args:
        text: YAML 1.2: `1e-3` is a number, `off` a string.
        source: Line, from 1, to what messages call it.
        problems: Gets what is wrong with single values.
        path: Of the whole tree.

    Raises:
        ConfigError: The text is not YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        words = (getattr(err, "context", None), getattr(err, "problem", None))
        what = " ".join(filter(None, words)) or str(err).splitlines()[0]
        raise ConfigError([f"{source(mark.line + 1 if mark else 1)}: not YAML: {what}"]) from err
    if node is None:
        return Node(None, source(1), path)
    return _Reader(yaml, source, problems).read(node, path, node)


class _Reader:
    def __init__(self, yaml: YAML, source: Callable[[int], str], problems: list[Problem]) -> None:
        self._yaml, self._source, self._problems = yaml, source, problems
        self._open: set[int] = set()

    def read(self, node: Any, path: str, at: Any) -> Node:  # noqa: ANN401  # ruamel's nodes
        """Return the tree of `node`, which is written where `at` (it, or its key) starts."""
        here = Node(None, self._source(at.start_mark.line + 1), path)
        if id(node) in self._open:
            self._problems.append(here.problem("an alias must not hold itself"))
            return here
        self._open.add(id(node))
        if isinstance(node, MappingNode):
            here.value = self._mapping(node, path)
        elif isinstance(node, SequenceNode):
            items = enumerate(node.value)
            here.value = [self.read(item, joined(path, index), item) for index, item in items]
        else:
            here.value = self._scalar(node, here)
        self._open.discard(id(node))
        return here

    def _mapping(self, node: MappingNode, path: str) -> dict[str, Node]:
        values: dict[str, Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else "?"
            child = self.read(value, joined(path, name), key)
            if name == "?":
                self._problems.append(child.problem("a key must be a plain word"))
            elif name in values:
                message = f"repeated key; it was set at {values[name].source}"
                self._problems.append(child.problem(message))
            values.setdefault(name, child)
        return values

    def _scalar(self, node: ScalarNode, here: Node) -> str | float | bool | None:
        tag = str(node.tag)
        if tag in _STRINGS:
            return str(node.value)
        try:
            if tag in _SCALARS:
                return self._yaml.constructor.construct_object(node)
            message = f"unknown tag {tag}"
        except (YAMLError, ValueError):
            message = f"not a {tag.removeprefix(_TAG)}: got {node.value!r}"
        self._problems.append(here.problem(message))
        return None
