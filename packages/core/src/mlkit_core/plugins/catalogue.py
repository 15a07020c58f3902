"""What is installed, as a value: components and their owners, commands, failures, run hooks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

from mlkit_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pluggy

    from mlkit_core.plugins.specs import (
        CheckSpec,
        CommandSpec,
        ComponentSpec,
        ExampleSpec,
        Kind,
        PluginFailure,
    )

_log = logging.getLogger("mlkit")
_LISTED = 8  # names that an error spells out where none is near


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Spec = TypeVar("_Spec", bound=_Named)


class Component(NamedTuple):
    """A component and the plugin that yields it."""

    spec: ComponentSpec
    owner: str


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """One plugin, loaded or not.

    Args:
        name: Unique: the entry point's, or the distribution's where two share that name.
        distribution: The installed package.
        version: Of the distribution.
        api: Its `MLKIT_API`, None where it was not read.
        hooks: The hooks that it implements.
        status: "ok", "failed" or "disabled".
        milliseconds: Time to load it and to read its lists.
    """

    name: str
    distribution: str
    version: str
    api: int | None = None
    hooks: tuple[str, ...] = ()
    status: Literal["ok", "failed", "disabled"] = "ok"
    milliseconds: float = 0.0


class RunHooks:
    """Calls the run hooks of every plugin; one that raises is named once, and the run goes on."""

    def __init__(self, managers: Mapping[str, pluggy.PluginManager]) -> None:
        self._managers = dict(managers)
        self._warned: set[tuple[str, str]] = set()

    def __getattr__(self, hook: str) -> Callable[..., None]:
        """Return the relay of one hook, called with keywords as in `MlkitHooks`."""
        return partial(self._call, hook)

    def _call(self, hook: str, **arguments: object) -> None:
        for plugin, manager in self._managers.items():
            try:
                getattr(manager.hook, hook)(**arguments)
            except (Exception, SystemExit) as err:
                if (plugin, hook) not in self._warned:
                    self._warned.add((plugin, hook))
                    _log.warning("plugin %r: %s: %s: %s", plugin, hook, type(err).__name__, err)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Everything that the installed plugins yield, and what failed to load.

    Args:
        entries: Every component with its owner, in order of loading.
        commands: Verbs under `mlkit <group>`.
        checks: Checks for `mlkit doctor`.
        examples: Run files for `mlkit init`.
        plugins: One for each entry point, with status and time.
        failures: One for each plugin that could not be loaded.
        hook: Relay of the three run hooks.
    """

    entries: tuple[Component, ...] = ()
    commands: tuple[CommandSpec, ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    examples: tuple[ExampleSpec, ...] = ()
    plugins: tuple[PluginInfo, ...] = ()
    failures: tuple[PluginFailure, ...] = ()
    hook: RunHooks = field(default_factory=lambda: RunHooks({}))

    @classmethod
    def from_plugins(cls, plugins: Mapping[str, object]) -> Catalogue:
        """Return the catalogue of these plugins alone, for tests: nothing need be installed.

        Args:
            plugins: Name to a module, to any object with hook methods, or to a module's name.
        """
        from mlkit_core.plugins.loader import load_plugins, local_source

        return load_plugins(local_source(name, plugin) for name, plugin in plugins.items())

    def components(self, kind: Kind | None = None) -> tuple[Component, ...]:
        """Return the components of a kind, or all; two owners of one name are both listed."""
        return tuple(entry for entry in self.entries if kind in (None, entry.spec.kind))

    def find(self, kind: Kind, name: str) -> Component:
        """Return the component and its owner for `name` or `owner/name`.

        Raises:
            PluginError: None has the name (the nearest is named), or several plugins have it.
        """
        owner, _, bare = name.rpartition("/")
        entries = self.components(kind)
        found = [e for e in entries if e.spec.name == bare and owner in ("", e.owner)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(f"'{entry.owner}/{bare}'" for entry in found)
            raise PluginError(f"several plugins have a {kind} named {bare!r}; say {choices}")
        names = [e.spec.name for e in entries] + [f"{e.owner}/{e.spec.name}" for e in entries]
        elsewhere = [
            e.spec.kind for e in self.entries if e.spec.name == bare and e.spec.kind != kind
        ]
        hint = f"; {bare!r} is a {elsewhere[0]}" if elsewhere else suggest(name, names)
        raise self._unknown(f"no {kind} named {name!r}{hint}")

    def find_example(self, name: str) -> ExampleSpec:
        """Return the example run file of this name, the first where several plugins have one.

        Raises:
            PluginError: None has the name; the nearest is named.
        """
        for example in self.examples:
            if example.name == name:
                return example
        names = [example.name for example in self.examples]
        raise self._unknown(f"no example named {name!r}{suggest(name, names)}")

    def _unknown(self, message: str) -> PluginError:
        failed = [f"plugin {f.plugin!r} failed to load: {f.error}" for f in self.failures]
        return PluginError(message, hint="; ".join([*failed, "`mlkit plugins list` shows all"]))


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the known names where none is near and they are few."""
    names: Sequence[str] = list(dict.fromkeys(known))
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    bare = [known_name for known_name in names if "/" not in known_name]
    return f"; there are {', '.join(bare)}" if 0 < len(bare) <= _LISTED else ""
