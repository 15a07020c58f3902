"""Loads plugins one by one: one that fails becomes a value, and the rest goes on.

pluggy's own loader stops at the first plugin that raises and drops a second distribution with the
same entry-point name. Here every plugin gets a manager of its own, so that nothing one of them
does (a misspelt hook, a bad signature) can reach another, and two may point at one module.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pluggy

from mlkit_core.errors import PluginError
from mlkit_core.plugins.catalogue import Catalogue, Component, PluginInfo, RunHooks
from mlkit_core.plugins.hooks import API, PROJECT, MlkitHooks
from mlkit_core.plugins.specs import (
    CheckSpec,
    CommandSpec,
    ComponentSpec,
    ExampleSpec,
    PluginFailure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from importlib.metadata import EntryPoint

GROUP = "mlkit"
_LISTS = {
    "mlkit_components": ComponentSpec,
    "mlkit_commands": CommandSpec,
    "mlkit_checks": CheckSpec,
    "mlkit_examples": ExampleSpec,
}
_HOOKS = tuple(name for name in vars(MlkitHooks) if name.startswith("mlkit_"))
_cached: list[Catalogue] = []


Source = tuple[PluginInfo, "Callable[[], object]"]  # what is known before anything is imported


@dataclass
class _Plugin:
    """One plugin on its way: `stage` says how far it came."""

    info: PluginInfo
    load: Callable[[], object]
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(PROJECT))
    stage: str = "load"
    yields: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])


def load_catalogue() -> Catalogue:
    """Return the catalogue of all installed plugins, loaded once per process."""
    if not _cached:
        sources = [_installed_source(point) for point in entry_points(group=GROUP)]
        ordered = sorted(sources, key=lambda source: (source[0].name, source[0].distribution))
        _cached.append(load_plugins(ordered))
    return _cached[-1]


@contextmanager
def using(catalogue: Catalogue) -> Generator[Catalogue]:
    """Let `load_catalogue` return this catalogue within the block, for tests."""
    _cached.append(catalogue)
    try:
        yield catalogue
    finally:
        _cached.pop()


def local_source(name: str, plugin: object) -> Source:
    """Return the source of a plugin that is not installed: an object, or a module's name."""
    load = (lambda: import_module(plugin)) if isinstance(plugin, str) else (lambda: plugin)
    return PluginInfo(name=name, distribution="(local)", version="0"), load


def _installed_source(point: EntryPoint) -> Source:
    distribution, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
    return PluginInfo(name=point.name, distribution=distribution, version=version), point.load


def load_plugins(sources: Iterable[Source]) -> Catalogue:
    """Return the catalogue of these plugins; those that fail are among its `failures`.

    `MLKIT_DISABLE_PLUGINS=a,b` leaves plugins out; `MLKIT_PLUGINS_STRICT=1` lets failures raise.
    """
    sources = list(sources)
    blocked = os.environ.get("MLKIT_DISABLE_PLUGINS", "").split(",")
    count = Counter(info.name for info, _ in sources)
    infos: list[PluginInfo] = []
    failures: list[PluginFailure] = []
    working: list[_Plugin] = []
    for info, load in sources:
        plugin = _Plugin(info, load)
        if count[info.name] > 1:
            plugin.info = replace(info, name=info.distribution)
        if plugin.info.name in blocked:
            plugin.info = replace(plugin.info, status="disabled")
        elif failure := _load(plugin):
            failures.append(failure)
        else:
            working.append(plugin)
        infos.append(plugin.info)
    return _gather(working, infos, failures)


def _load(plugin: _Plugin) -> PluginFailure | None:
    start = perf_counter()
    failure = None
    try:
        _run_stages(plugin)
    except (Exception, SystemExit) as err:
        if os.environ.get("MLKIT_PLUGINS_STRICT") == "1":
            raise
        text = str(err) if isinstance(err, PluginError) else f"{type(err).__name__}: {err}"
        info = plugin.info
        failure = PluginFailure(
            plugin=info.name,
            distribution=info.distribution,
            version=info.version,
            stage=plugin.stage,
            error=" ".join(text.split()),
        )
        plugin.info = replace(info, status="failed")
    plugin.info = replace(plugin.info, milliseconds=1000 * (perf_counter() - start))
    return failure


def _run_stages(plugin: _Plugin) -> None:
    module = plugin.load()
    plugin.stage = "api"
    api = getattr(module, "MLKIT_API", None)
    plugin.info = replace(plugin.info, api=api)
    if api != API:
        given = "MLKIT_API is missing" if api is None else f"written for plugin API {api!r}"
        raise PluginError(f"{given}; this mlkit has {API}")
    plugin.stage = "register"
    manager = plugin.manager
    manager.add_hookspecs(MlkitHooks)
    manager.register(module, name=plugin.info.name)
    manager.check_pending()
    hooks = tuple(name for name in _HOOKS if getattr(manager.hook, name).get_hookimpls())
    plugin.info = replace(plugin.info, hooks=hooks)
    unmarked = set(_HOOKS) & set(dir(module)) - set(hooks)
    if unmarked:
        raise PluginError(f"{', '.join(sorted(unmarked))} lacks the @hookimpl decorator")
    plugin.stage = "hooks"
    for hook, kind in _LISTS.items():
        plugin.yields[hook] = _listed(manager, hook, kind)


def _listed(manager: pluggy.PluginManager, hook: str, kind: type) -> list[Any]:
    items = [item for result in getattr(manager.hook, hook)() for item in result]
    for item in items:
        if not isinstance(item, kind):
            got = f"{type(item).__name__} {item!r}"
            raise PluginError(f"{hook} must yield {kind.__name__}, got {got}")
    keys = [(getattr(i, "kind", getattr(i, "group", "")), i.name) for i in items]
    for (group, name), count in Counter(keys).items():
        if count > 1:
            raise PluginError(f"{hook} yields {' '.join(filter(None, (group, name)))!r} twice")
    return items


def _gather(
    working: list[_Plugin], infos: list[PluginInfo], failures: list[PluginFailure]
) -> Catalogue:
    def all_of(hook: str) -> tuple[Any, ...]:
        return tuple(item for plugin in working for item in plugin.yields[hook])

    owned = [(p.info.name, spec) for p in working for spec in p.yields["mlkit_components"]]
    return Catalogue(
        entries=tuple(Component(spec, owner) for owner, spec in owned),
        commands=all_of("mlkit_commands"),
        checks=all_of("mlkit_checks"),
        examples=all_of("mlkit_examples"),
        plugins=tuple(infos),
        failures=tuple(failures),
        hook=RunHooks({plugin.info.name: plugin.manager for plugin in working}),
    )
