"""Validates each component's options against its own config model, and makes parts of them."""

# Values of any option, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from mlkit_core.config.explain import explained, final, problems_of
from mlkit_core.config.fields import ComponentValue, Config, RunFileContext
from mlkit_core.config.frame import Part
from mlkit_core.errors import PluginError
from mlkit_core.plugins.targets import import_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_core.config.tree import Node, Problem
    from mlkit_core.plugins.catalogue import Catalogue
    from mlkit_core.plugins.specs import ComponentSpec, Kind

RESERVED: Mapping[Kind, tuple[str, ...]] = {
    "encoder": ("name", "input", "cache", "lora", "weights"),
    "fusion": ("name", "as"),
    "loss": ("name", "as", "weight"),
}
_SINGLE: Mapping[Kind, tuple[str, ...]] = {
    "data": ("data",),
    "head": ("model", "head"),
    "trainer": ("trainer",),
    "extractor": ("extractor",),
}
_LISTS: Mapping[Kind, tuple[str, ...]] = {
    "fusion": ("model", "fusion"),
    "loss": ("losses",),
    "metric": ("metrics",),
}
Slot = tuple[str, str | int]


class NoOptions(Config):
    """Of a component that takes none."""


@dataclass(frozen=True)
class Site:
    """A place in a run file that holds a component."""

    kind: Kind
    slot: Slot  # ("head", 0), ("encoders", "image"), ("fusion", 0), ("losses", 1)
    node: Node


def sites(tree: Node) -> Iterator[Site]:
    """Yield the places of a stage that hold a component with a name, in any state."""
    for kind, keys in _SINGLE.items():
        yield from _site(kind, (kind, 0), tree.get(*keys))
    encoders = tree.get("model", "encoders")
    for role, node in encoders.fields.items() if encoders else ():
        yield from _site("encoder", ("encoders", role), node)
    for kind, keys in _LISTS.items():
        for index, item in enumerate(listed(tree.get(*keys))):
            yield from _site(kind, (keys[-1], index), item)


def listed(node: Node | None) -> list[Node]:
    """Return a list's items; a mapping alone counts as a list of one, as in `fusion`."""
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def _site(kind: Kind, slot: Slot, node: Node | None) -> Iterator[Site]:
    name = node.get("name") if node is not None else None
    if node is not None and name is not None and isinstance(name.value, str):
        yield Site(kind, slot, node)


def config_model(spec: ComponentSpec) -> type[Config]:
    """Return the model of a component's options.

    Raises:
        PluginError: It cannot be imported, is no `Config`, or has a reserved field.
    """
    if spec.config is None:
        return NoOptions
    model = import_target(spec.config)
    if not (isinstance(model, type) and issubclass(model, Config)):
        raise PluginError(f"{spec.config}: must be a subclass of mlkit_core.Config")
    names = {field.alias or name for name, field in model.model_fields.items()}
    taken = names & {"name", *RESERVED.get(spec.kind, ())}
    if taken:
        raise PluginError(f"{spec.config}: option {min(taken)!r} is reserved for the run file")
    return model


@dataclass
class ComponentReader:
    """Reads the components of a run file; what is wrong is gathered, not raised.

    Args:
        catalogue: Where names are looked up.
        folder: Where relative paths start.
        problems: Gets what is wrong.
        hints: What to do about it.
    """

    catalogue: Catalogue
    folder: Path
    problems: list[Problem]
    hints: list[str] = field(default_factory=list[str])

    def read(self, site: Site) -> Part | None:
        """Return the part at a site, or None after noting what is wrong with it."""
        name = site.node.fields["name"]
        try:
            spec, owner = self.catalogue.find(site.kind, str(name.value))
            model = config_model(spec)
        except PluginError as err:
            self.problems.append(name.problem(str(err)))
            self.hints.append(err.hint)
            return None
        reserved = RESERVED.get(site.kind, ("name",))
        options = {k: n.plain() for k, n in site.node.fields.items() if k not in reserved}
        try:
            checked = model.model_validate(options, context=self.context)
        except ValidationError as err:
            self.problems += problems_of(err, site.node, model, reserved)
            return None
        absolutise(site.node, checked)
        return Part(spec=spec, owner=owner, options=self._options(checked))

    @property
    def context(self) -> RunFileContext:
        """What path and component types see while a value is validated."""
        return RunFileContext(self.folder, self._nested)

    def _nested(self, kind: Kind, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            model = config_model(self.catalogue.find(kind, name).spec)
        except PluginError as err:
            self.hints.append(err.hint)
            raise final([(("name",), str(err))]) from err
        try:
            checked = model.model_validate(options, context=self.context)
        except ValidationError as err:
            messages = [(loc, what + got) for loc, what, got in explained(err, model)]
            raise final(messages) from err
        return self._options(checked)

    def _options(self, checked: Config) -> dict[str, Any]:
        return {name: self._value(getattr(checked, name)) for name in type(checked).model_fields}

    def _value(self, value: object) -> object:
        if isinstance(value, ComponentValue) and value.kind is not None:
            spec, owner = self.catalogue.find(value.kind, value.name)
            return Part(spec=spec, owner=owner, options=value.options)
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self._value(item) for item in value)
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        return value


def absolutise(node: Node, value: object) -> None:
    """Write resolved paths back into the tree, so that the run folder's copy means the same."""
    if isinstance(value, Path) and isinstance(node.value, str):
        node.value = str(value)
        return
    if isinstance(value, ComponentValue | Part):
        value = value.options
    elif isinstance(value, BaseModel):
        fields = type(value).model_fields
        value = {field.alias or name: getattr(value, name) for name, field in fields.items()}
    if isinstance(value, Mapping) and isinstance(node.value, dict):
        for key, item in value.items():
            if str(key) in node.value:
                absolutise(node.value[str(key)], item)
    elif isinstance(value, list | tuple) and isinstance(node.value, list):
        for child, item in zip(node.value, value, strict=False):
            absolutise(child, item)
