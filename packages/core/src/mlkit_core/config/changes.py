"""The resolved run file as text: how it is written, and what differs between two of them."""

# Ruamel has no types, which strict mode cannot follow.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from mlkit_core.config.tree import parse

if TYPE_CHECKING:
    from mlkit_core.config.frame import RunConfig


def dump_resolved(config: RunConfig) -> str:
    """Return YAML that `load_config` reads back to an equal config from any folder."""
    yaml, text = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # untyped
    yaml.dump(dict(config.resolved), text)
    return text.getvalue()


def changed_keys(before: str, now: str) -> list[str]:
    """Return the dotted keys whose values differ between two resolved run files (YAML text)."""
    old, new = _flat(before), _flat(now)
    return [k for k in dict.fromkeys((*old, *new)) if k not in old or old[k] != new.get(k, ...)]


def _flat(text: str) -> dict[str, object]:
    leaves = (
        node
        for node in parse(text, str).walk()
        if node.value in ({}, []) or not isinstance(node.value, dict | list)
    )
    return {leaf.path.replace("[", ".").replace("]", ""): leaf.value for leaf in leaves}
