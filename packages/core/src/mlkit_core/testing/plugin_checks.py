"""Checks of a plugin as a whole: light to import, of this API, and true to its specs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from mlkit_core.config.fields import Config
from mlkit_core.plugins import API, KINDS, Catalogue, import_target
from mlkit_core.testing.subject import ContractError

if TYPE_CHECKING:
    from mlkit_core.plugins.specs import ComponentSpec

HEAVY = (
    *("torch", "torchvision", "timm", "ultralytics", "transformers", "segment_anything"),
    *("sklearn", "cv2", "numpy", "accelerate", "pandas", "numba", "matplotlib"),
)
_CONTEXT = frozenset({"inputs", "num_classes", "on"})
_RESERVED = {
    "encoder": {"name", "input", "cache", "lora", "weights"},
    "fusion": {"name", "as"},
    "loss": {"name", "as", "weight"},
}


def specs_of(plugin: str) -> tuple[ComponentSpec, ...]:
    """Return the components that a plugin module yields.

    Raises:
        ContractError: The plugin does not load.
    """
    catalogue = Catalogue.from_plugins({"tested": plugin})
    for failure in catalogue.failures:
        raise ContractError(f"{plugin}: does not load, at stage {failure.stage}: {failure.error}")
    return tuple(entry.spec for entry in catalogue.components())


def check_light(plugin: str) -> None:
    """Importing the plugin and its configs, in a fresh interpreter, loads no heavy module."""
    configs = sorted({s.config.partition(":")[0] for s in specs_of(plugin) if s.config})
    code = (
        "import importlib, sys\n"
        f"for name in {[plugin, *configs]!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    if heavy: sys.exit(f'{name} loads ' + ', '.join(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContractError(
            f"{plugin}: {done.stderr.strip().splitlines()[-1]}; import it inside functions, or in "
            "the module that a target names"
        )


def check_api(plugin: str) -> None:
    """The plugin states the API version that this core has."""
    got = getattr(import_module(plugin), "MLKIT_API", None)
    if got != API:
        raise ContractError(f"{plugin}: MLKIT_API is {got!r}; write MLKIT_API = {API}")


def check_spec(spec: ComponentSpec) -> None:
    """What the spec names can be imported; it has a summary and an example."""
    where = f"{spec.kind}/{spec.name}"
    if spec.kind not in KINDS or not spec.summary or "\n" in spec.summary:
        raise ContractError(f"{where}: summary must be one line, got {spec.summary!r}")
    if spec.example is None and spec.kind != "trainer":
        raise ContractError(f"{where}: no example; name one in the spec: example='module:function'")
    for target in filter(None, (spec.target, spec.config, spec.example)):
        import_target(target)


def check_options(spec: ComponentSpec) -> None:
    """Every option is a keyword of the constructor, with the same default, and none is reserved."""
    where, target = f"{spec.kind}/{spec.name}", import_target(spec.target)
    names = inspect.signature(target).parameters
    options = {}
    if spec.config is not None:
        config = import_target(spec.config)
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise ContractError(f"{where}: {spec.config} must be a subclass of mlkit_core.Config")
        options = config.model_fields
    reserved = sorted(_RESERVED.get(spec.kind, {"name"}) & set(options))
    if reserved:
        raise ContractError(f"{where}: option {reserved[0]!r} is reserved in run files; rename it")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in names.values())
    for name, field in options.items():
        if name not in names and not open_ended:
            raise ContractError(
                f"{where}: option {name!r} is no keyword of {spec.target}; add it there or drop it"
            )
        if name in names and not field.is_required() and field.default_factory is None:
            _check_default(where, name, field.default, names[name].default)
    for name, parameter in names.items():
        fixed = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        required = parameter.default is parameter.empty and not fixed
        if required and name not in options and name not in _CONTEXT:
            raise ContractError(
                f"{where}: {spec.target} needs {name!r}, which no option gives; add it to the "
                f"config, or a default (build itself gives {', '.join(sorted(_CONTEXT))})"
            )


def _check_default(where: str, name: str, option: object, keyword: object) -> None:
    if keyword is not inspect.Parameter.empty and option != keyword:
        raise ContractError(
            f"{where}: {name} defaults to {option!r} in the config and to {keyword!r} in the "
            "constructor; let them agree"
        )
