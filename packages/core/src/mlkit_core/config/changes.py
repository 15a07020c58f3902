"""What differs between two resolved run files."""

# Plain YAML values, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML


def changed_keys(before: str, now: str) -> list[str]:
    """Return the dotted keys whose values differ between two resolved run files (YAML text)."""
    old, new = _flat(YAML(typ="safe").load(before)), _flat(YAML(typ="safe").load(now))
    absent = object()
    return [k for k in dict.fromkeys((*old, *new)) if old.get(k, absent) != new.get(k, absent)]


def _flat(value: Any, path: str = "") -> dict[str, Any]:  # noqa: ANN401  # plain YAML values
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    flat: dict[str, Any] = {path: type(value).__name__} if not items else {}
    for key, item in items:
        flat |= _flat(item, f"{path}.{key}" if path else key)
    return flat
