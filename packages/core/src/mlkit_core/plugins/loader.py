"""Loads plugins one by one: one that fails becomes a value, and the rest goes on.

pluggy's own loader stops at the first plugin that raises and drops a second distribution with the
same entry-point name. Here every plugin gets a manager of its own, so that nothing one of them
does (a misspelt hook, a bad signature) can reach another, and two may point at one module.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pluggy

from mlkit_core.errors import PluginError
from mlkit_core.plugins import specs
from mlkit_core.plugins.catalogue import Catalogue, PluginInfo, RunHooks
from mlkit_core.plugins.hooks import API, PROJECT, MlkitHooks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from importlib.metadata import EntryPoint

GROUP = "mlkit"
_LISTS = {
    "mlkit_components": specs.ComponentSpec,
    "mlkit_commands": specs.CommandSpec,
    "mlkit_checks": specs.CheckSpec,
    "mlkit_examples": specs.ExampleSpec,
}
_HOOKS = tuple(name for name in vars(MlkitHooks) if name.startswith("mlkit_"))
_cached: list[Catalogue] = []
Source = tuple[PluginInfo, "Callable[[], object]"]  # what is known before anything is imported


def load_catalogue() -> Catalogue:
    """Return the catalogue of all installed plugins, loaded once per process."""
    if not _cached:
        sources = [_installed_source(point) for point in entry_points(group=GROUP)]
        sources.sort(key=lambda source: (source[0].name, source[0].distribution))
        _cached.append(load_plugins(sources))
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
    name, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
    return PluginInfo(name=point.name, distribution=name, version=version), point.load


def load_plugins(sources: Iterable[Source]) -> Catalogue:
    """Return the catalogue of these plugins; those that fail are among its `failures`.

    `MLKIT_DISABLE_PLUGINS=a,b` leaves plugins out; `MLKIT_PLUGINS_STRICT=1` lets failures raise.
    """
    sources = list(sources)
    blocked = os.environ.get("MLKIT_DISABLE_PLUGINS", "").split(",")
    count = Counter(info.name for info, _ in sources)
    plugins: list[_Plugin] = []
    for info, load in sources:
        plugin = _Plugin(replace(info, name=info.distribution) if count[info.name] > 1 else info)
        plugins.append(plugin)
        if plugin.info.name in blocked:
            plugin.info = replace(plugin.info, status="disabled")
        else:
            plugin.load(load)
    working = [plugin for plugin in plugins if plugin.info.status == "ok"]
    return Catalogue(
        owned={
            hook: [(spec, plugin.info.name) for plugin in working for spec in plugin.yields[hook]]
            for hook in _LISTS
        },
        plugins=tuple(plugin.info for plugin in plugins),
        failures=tuple(plugin.failure for plugin in plugins if plugin.failure),
        hook=RunHooks({plugin.info.name: plugin.manager for plugin in working}),
    )


class _Plugin:
    """One plugin on its way: `stage` says how far it came."""

    def __init__(self, info: PluginInfo) -> None:
        self.info, self.stage = info, "load"
        self.manager = pluggy.PluginManager(PROJECT)
        self.yields: dict[str, list[Any]] = {}
        self.failure: specs.PluginFailure | None = None

    def load(self, load: Callable[[], object]) -> None:
        """Go through all stages; what is raised becomes the failure."""
        start = perf_counter()
        try:
            self._run_stages(load)
        except (Exception, SystemExit) as err:
            if os.environ.get("MLKIT_PLUGINS_STRICT") == "1":
                raise
            text = str(err) if isinstance(err, PluginError) else f"{type(err).__name__}: {err}"
            info, error = self.info, " ".join(text.split())
            self.failure = specs.PluginFailure(
                info.name, info.distribution, info.version, self.stage, error
            )
            self.info = replace(info, status="failed")
        self.info = replace(self.info, milliseconds=1000 * (perf_counter() - start))

    def _run_stages(self, load: Callable[[], object]) -> None:
        module = load()
        self.stage = "api"
        api = getattr(module, "MLKIT_API", None)
        self.info = replace(self.info, api=api)
        if api != API:
            given = "MLKIT_API is missing" if api is None else f"written for plugin API {api!r}"
            raise PluginError(f"{given}; this mlkit has {API}")
        self.stage = "register"
        self.manager.add_hookspecs(MlkitHooks)
        self.manager.register(module, name=self.info.name)
        self.manager.check_pending()
        hooks = tuple(h for h in _HOOKS if getattr(self.manager.hook, h).get_hookimpls())
        self.info = replace(self.info, hooks=hooks)
        if unmarked := set(_HOOKS) & set(dir(module)) - set(hooks):
            raise PluginError(f"{', '.join(sorted(unmarked))} lacks the @hookimpl decorator")
        self.stage = "hooks"
        self.yields = {hook: self._listed(hook, kind) for hook, kind in _LISTS.items()}

    def _listed(self, hook: str, kind: type) -> list[Any]:
        items = [item for result in getattr(self.manager.hook, hook)() for item in result]
        seen: set[str] = set()
        for item in items:
            if not isinstance(item, kind):
                got = f"{type(item).__name__} {item!r}"
                raise PluginError(f"{hook} must yield {kind.__name__}, got {got}")
            key = f"{getattr(item, 'kind', getattr(item, 'group', ''))} {item.name}".strip()
            if key in seen:
                raise PluginError(f"{hook} yields {key!r} twice")
            seen.add(key)
        return items
