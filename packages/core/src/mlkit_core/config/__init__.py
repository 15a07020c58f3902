"""Run files: read, validated and resolved without importing anything heavy."""

from __future__ import annotations

from mlkit_core.config.changes import dump_resolved
from mlkit_core.config.fields import Component, Config, RunPath
from mlkit_core.config.json_schema import schema
from mlkit_core.config.load import load_config

__all__ = ["Component", "Config", "RunPath", "dump_resolved", "load_config", "schema"]
