"""A run file as a tree that remembers where every value was written."""

# Ruamel has no types, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML, nodes
from ruamel.yaml.error import YAMLError

from mlkit_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TAG = "tag:yaml.org,2002:"
# YAML 1.2 knows no dates and no "=": such words are plain strings.
_STRINGS = {f"{_TAG}timestamp", f"{_TAG}value"}


class Problem(NamedTuple):
    """One thing that is wrong: where it was written, its path, what, and what to do."""

    source: str
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, self[:3]))


@dataclass
class Node:
    """A value and its origin: `source` reads `run.yaml:12` or `--set a.b=1`."""

    value: dict[str, Node] | list[Node] | str | float | bool | None
    source: str
    path: str

    @property
    def fields(self) -> dict[str, Node]:
        """The nodes of a mapping by key; nothing where the value is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def get(self, *keys: str) -> Node | None:
        """Return the node under these keys, None where there is none or its value is null."""
        node: Node | None = self
        for key in keys:
            node = node.fields.get(key) if node else None
        return node if node and node.value is not None else None

    def listed(self, *keys: str) -> list[Node]:
        """Return the items of the list there; a mapping counts as a list of one, as in `fusion`."""
        node = self.get(*keys)
        if node is None or not isinstance(node.value, dict | list):
            return []
        return node.value if isinstance(node.value, list) else [node]

    def plain(self) -> Any:  # noqa: ANN401  # as the YAML says
        """Return the value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.value if isinstance(self.value, list) else self.fields.values():
            yield from child.walk()

    def problem(self, message: str, *below: str | int) -> Problem:
        """Return a problem of this value, or of something missing below it."""
        return Problem(self.source, joined(self.path, *below), message)

    def error(self, message: str) -> ConfigError:
        """Return a problem that nothing can be read after."""
        return ConfigError([str(self.problem(message))])


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
        root, rest = (child, []) if child else (root, [*rest, key])
    return root, rest


def parse(text: str, source: Callable[[int], str], path: str = "") -> Node:
    """Return the tree of a YAML 1.2 text: `1e-3` is a number, `off` a string.

    Args:
        text: YAML.
        source: Line, from 1, to what messages call it.
        path: Of the whole tree.

    Raises:
        ConfigError: The text is not YAML, a key is repeated, or a tag is unknown.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        words = (getattr(err, "context", None), getattr(err, "problem", None))
        what = " ".join(filter(None, words)) or str(err).splitlines()[0]
        raise ConfigError([f"{source(mark.line + 1 if mark else 1)}: not YAML: {what}"]) from err
    return _Reader(yaml, source).read(node, path, node) if node else Node(None, source(1), path)


class _Reader(NamedTuple):
    yaml: YAML
    source: Callable[[int], str]
    within: tuple[nodes.Node, ...] = ()

    def read(self, node: nodes.Node, path: str, at: nodes.Node) -> Node:
        """Return the tree of `node`, which is written where `at` (it, or its key) starts."""
        here, tag = Node(None, self.source(at.start_mark.line + 1), path), str(node.tag)
        if node in self.within:
            raise here.error("an alias must not hold itself")
        inner = self._replace(within=(*self.within, node))
        if isinstance(node, nodes.MappingNode):
            here.value = inner.mapping(node, path)
        elif isinstance(node, nodes.SequenceNode):
            items = enumerate(node.value)
            here.value = [inner.read(item, joined(path, index), item) for index, item in items]
        else:
            try:
                construct = self.yaml.constructor.construct_object
                here.value = str(node.value) if tag in _STRINGS else construct(node)
            except (YAMLError, ValueError) as err:
                what = f"cannot be read as {tag.removeprefix(_TAG)}, got {node.value!r}"
                raise here.error(what) from err
        return here

    def mapping(self, node: nodes.MappingNode, path: str) -> dict[str, Node]:
        """Return the values of a mapping by key."""
        values: dict[str, Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, nodes.ScalarNode) else "?"
            child = self.read(value, joined(path, name), key)
            if name == "?":
                raise child.error("a key must be a plain word")
            if name in values:
                raise child.error(f"repeated key; it was set at {values[name].source}")
            values[name] = child
        return values
