"""What is installed, as a value: components and their owners, commands, failures, run hooks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mlkit_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pluggy

    from mlkit_core.plugins import specs

_log = logging.getLogger("mlkit")
_LISTED = 8  # names that an error spells out where none is near


class Component(NamedTuple):
    """A component and the plugin that yields it."""

    spec: specs.ComponentSpec
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
        owned: By hook, everything that it yields with its owner, in order of loading.
        plugins: One for each entry point, with status and time.
        failures: One for each plugin that could not be loaded.
        hook: Relay of the three run hooks.
    """

    owned: Mapping[str, Sequence[tuple[Any, str]]]
    plugins: tuple[PluginInfo, ...]
    failures: tuple[specs.PluginFailure, ...]
    hook: RunHooks

    @classmethod
    def from_plugins(cls, plugins: Mapping[str, object]) -> Catalogue:
        """Return the catalogue of these plugins alone, for tests: nothing need be installed.

        Args:
            plugins: Name to a module, to any object with hook methods, or to a module's name.
        """
        from mlkit_core.plugins.loader import load_plugins, local_source

        return load_plugins(local_source(name, plugin) for name, plugin in plugins.items())

    @property
    def entries(self) -> tuple[Component, ...]:
        """Every component with its owner."""
        return tuple(Component(*each) for each in self.owned["mlkit_components"])

    @property
    def commands(self) -> tuple[specs.CommandSpec, ...]:
        """Verbs under `mlkit <group>`."""
        return tuple(spec for spec, _ in self.owned["mlkit_commands"])

    @property
    def checks(self) -> tuple[specs.CheckSpec, ...]:
        """Checks for `mlkit doctor`."""
        return tuple(spec for spec, _ in self.owned["mlkit_checks"])

    @property
    def examples(self) -> tuple[specs.ExampleSpec, ...]:
        """Run files for `mlkit init`."""
        return tuple(spec for spec, _ in self.owned["mlkit_examples"])

    def components(self, kind: specs.Kind | None = None) -> tuple[Component, ...]:
        """Return the components of a kind, or all; two owners of one name are both listed."""
        return tuple(entry for entry in self.entries if kind in (None, entry.spec.kind))

    def find(self, kind: specs.Kind, name: str) -> Component:
        """Return the component and its owner for `name` or `owner/name`.

        Raises:
            PluginError: None has the name (the nearest is named), or several plugins have it.
        """
        others = {e.spec.name: e.spec.kind for e in self.entries if e.spec.kind != kind}
        return Component(*self._only(kind, name, self.components(kind), others))

    def find_example(self, name: str) -> specs.ExampleSpec:
        """Return the example run file for `name` or `owner/name`; raises as `find`."""
        return self._only("example", name, self.owned["mlkit_examples"])[0]

    def _only(
        self,
        what: str,
        name: str,
        owned: Sequence[tuple[Any, str]],
        others: Mapping[str, str] | None = None,
    ) -> tuple[Any, str]:
        """Return the one (spec, owner) of that name; `others` are names of another kind."""
        wanted, _, bare = name.rpartition("/")
        found = [(spec, own) for spec, own in owned if spec.name == bare and wanted in ("", own)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(f"'{owner}/{bare}'" for _, owner in found)
            raise PluginError(f"several plugins have the {what} {bare!r}; say {choices}")
        names = [spec.name for spec, _ in owned] + [f"{own}/{spec.name}" for spec, own in owned]
        other = others.get(bare) if others else None
        guess = f"; {bare!r} is a {other}" if other else suggest(name, names)
        failed = [f"plugin {f.plugin!r} failed to load: {f.error}" for f in self.failures]
        hint = "; ".join([*failed, "`mlkit plugins list` shows all"])
        raise PluginError(f"no {what} named {name!r}{guess}", hint=hint)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the known names where none is near and they are few."""
    names = list(dict.fromkeys(known))
    if near := get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean {near[0]!r}?"
    bare = [each for each in names if "/" not in each]
    return f"; there are {', '.join(bare)}" if 0 < len(bare) <= _LISTED else ""
