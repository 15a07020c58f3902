"""A component's options as a table, read from its config model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from mlkit_core.plugins import import_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.plugins import ComponentSpec

_TYPES = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "string": "str",
    "null": "null",
    "object": "mapping",
}
_BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
}


class Option(NamedTuple):
    """One option: how it is written, what it may hold, what it is when left out, what it does."""

    name: str
    type: str
    default: str
    description: str


def option_rows(spec: ComponentSpec) -> list[Option]:
    """Return a component's options in the order of its config model; none where it has no model.

    Raises:
        PluginError: The config model cannot be imported.
    """
    if spec.config is None:
        return []
    schema: Mapping[str, Any] = import_target(spec.config).model_json_schema()
    required = schema.get("required", ())
    return [
        Option(
            name,
            type_text(option, schema.get("$defs", {})),
            "required" if name in required else _written(option.get("default")),
            option.get("description", ""),
        )
        for name, option in schema.get("properties", {}).items()
    ]


def type_text(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return a JSON Schema type as people write it: `int >= 1`, `float > 0 | null`, `a | b`."""
    if "$ref" in option:
        return type_text(definitions[option["$ref"].rpartition("/")[2]], definitions)
    if "x-mlkit-component" in option:
        return f"{option['x-mlkit-component']} component"
    if "enum" in option or "const" in option:
        return " | ".join(_written(value) for value in option.get("enum", [option.get("const")]))
    if "anyOf" in option:
        return " | ".join(type_text(choice, definitions) for choice in option["anyOf"])
    if option.get("type") == "array":
        return _array_text(option, definitions)
    bounds = [f"{sign} {option[key]:g}" for key, sign in _BOUNDS.items() if key in option]
    said = option.get("format", "") if option.get("format") == "path" else ""
    return " ".join([said or _TYPES.get(option.get("type", ""), "any"), *bounds])


def _array_text(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "prefixItems" in option:
        inner = (type_text(item, definitions) for item in option["prefixItems"])
        return f"[{', '.join(inner)}]"
    return f"list of {type_text(option.get('items', {}), definitions)}"


def _written(value: Any) -> str:  # noqa: ANN401  # any default
    """Return a default as it stands in a run file."""
    return value if isinstance(value, str) and value else json.dumps(value, default=str)
