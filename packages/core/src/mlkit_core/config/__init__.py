"""Run files: read, validated and resolved without importing anything heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.config.fields import Component, ComponentValue, Config, RunPath

if TYPE_CHECKING:
    from mlkit_core.config.dump import dump_resolved
    from mlkit_core.config.json_schema import schema
    from mlkit_core.config.load import load_config

__all__ = [
    "Component",
    "ComponentValue",
    "Config",
    "RunPath",
    "dump_resolved",
    "load_config",
    "schema",
]

_WHERE = {"dump_resolved": "dump", "load_config": "load", "schema": "json_schema"}


def __getattr__(name: str) -> object:
    """Import the reader only when it is asked for: config modules need the fields alone."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
