"""Writes the resolved run file that goes into the run folder."""

# Ruamel has no types, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from mlkit_core.config.frame import RunConfig


def dump_resolved(config: RunConfig) -> str:
    """Return YAML that `load_config` reads back to an equal config from any folder."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # untyped
    text = StringIO()
    yaml.dump(dict(config.resolved), text)
    return text.getvalue()
