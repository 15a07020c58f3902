"""mlkit's core: interfaces, plugin hooks, run files and the one training loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlkit_core.plugins.hooks import hookimpl
from mlkit_core.plugins.specs import (
    CheckResult,
    CheckSpec,
    CommandSpec,
    ComponentSpec,
    ExampleSpec,
    PluginFailure,
)

if TYPE_CHECKING:
    from mlkit_core.config.fields import Component, Config
    from mlkit_core.run import load_run

__all__ = [
    "CheckResult",
    "CheckSpec",
    "CommandSpec",
    "Component",
    "ComponentSpec",
    "Config",
    "ExampleSpec",
    "PluginFailure",
    "hookimpl",
    "load_run",
]

# pydantic takes 70 ms and torch seconds: listing plugins must pay for neither.
_LATER = {
    "Component": "mlkit_core.config.fields",
    "Config": "mlkit_core.config.fields",
    "load_run": "mlkit_core.run",
}


def __getattr__(name: str) -> object:
    """Import validation and training only when they are asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value
