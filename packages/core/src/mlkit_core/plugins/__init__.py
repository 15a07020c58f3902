"""Plugins: what they yield, the hooks, and the catalogue of what is installed."""

from __future__ import annotations

from mlkit_core.plugins.catalogue import Catalogue, Component, suggest
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
)
from mlkit_core.plugins.targets import import_target

__all__ = ["KINDS", "CheckResult", "CheckSpec", "CommandSpec", "ComponentSpec", "ExampleSpec"]
__all__ += ["API", "Catalogue", "Component", "MlkitHooks", "hookimpl", "import_target"]
__all__ += ["Kind", "load_catalogue", "suggest", "using"]
