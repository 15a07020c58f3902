"""Plugins: what they yield, the hooks, and the catalogue of what is installed."""

from __future__ import annotations

from mlkit_core.plugins.catalogue import Catalogue, Component, PluginInfo, suggest
from mlkit_core.plugins.hooks import API, MlkitHooks, hookimpl
from mlkit_core.plugins.loader import load_catalogue, using
from mlkit_core.plugins.specs import (
    KINDS,
    CheckResult,
    CheckSpec,
    CommandSpec,
    ComponentSpec,
    ExampleSpec,
    Kind,
    PluginFailure,
)
from mlkit_core.plugins.targets import import_target

__all__ = [
    "API",
    "KINDS",
    "Catalogue",
    "CheckResult",
    "CheckSpec",
    "CommandSpec",
    "Component",
    "ComponentSpec",
    "ExampleSpec",
    "Kind",
    "MlkitHooks",
    "PluginFailure",
    "PluginInfo",
    "hookimpl",
    "import_target",
    "load_catalogue",
    "suggest",
    "using",
]
