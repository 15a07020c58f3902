"""JSON Schema of the whole run file, for editors."""

# Plain JSON values, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mlkit_core.config.components import RESERVED, config_model
from mlkit_core.config.merge import DEFAULT_TRAINER, STAGE_FIXED
from mlkit_core.config.model import EncoderEntry, Entry, FusionEntry, LossEntry, RunFrame
from mlkit_core.plugins.loader import load_catalogue
from mlkit_core.plugins.specs import KINDS

if TYPE_CHECKING:
    from mlkit_core.plugins.catalogue import Catalogue
    from mlkit_core.plugins.specs import ComponentSpec, Kind

_Schema = dict[str, Any]
_ENTRIES: dict[Kind, type[Entry]] = {
    "encoder": EncoderEntry,
    "fusion": FusionEntry,
    "loss": LossEntry,
}
_DEFS = "#/$defs/"


def schema(catalogue: Catalogue | None = None) -> _Schema:
    """Return the JSON Schema (draft 2020-12) of run files with these components.

    Raises:
        PluginError: The options of a component cannot be imported.
    """
    catalogue = catalogue or load_catalogue()
    frame = RunFrame.model_json_schema(ref_template=_DEFS + "{model}")
    defs: _Schema = frame.pop("$defs")
    for kind in KINDS:
        defs[kind] = _kind_schema(kind, catalogue, defs)
    for unused in ("Entry", *(entry.__name__ for entry in _ENTRIES.values())):
        defs.pop(unused, None)
    properties = frame["properties"]
    for kind in ("data", "trainer", "extractor"):
        properties[kind] = _optional(_ref(kind))
    properties["losses"] = {"type": "array", "items": _ref("loss")}
    properties["metrics"] = {"type": "array", "items": _ref("metric")}
    model = defs["ModelFrame"]["properties"]
    model["encoders"] |= {"additionalProperties": _ref("encoder")}
    fusions = {"type": "array", "items": _ref("fusion")}
    model["fusion"] = {"anyOf": [_ref("fusion"), fusions, {"type": "null"}]}
    model["head"] = _optional(_ref("head"))
    properties["stages"] = {"type": "array", "minItems": 1, "items": _stage(properties)}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mlkit run file"}
    return {**frame, **head, "$defs": defs}


def _ref(name: str) -> _Schema:
    return {"$ref": _DEFS + name}


def _optional(value: _Schema) -> _Schema:
    return {"anyOf": [value, {"type": "null"}]}


def _kind_schema(kind: Kind, catalogue: Catalogue, defs: _Schema) -> _Schema:
    """Return the schema of a component of a kind: its options depend on its name."""
    entries = catalogue.components(kind)
    count = Counter(entry.spec.name for entry in entries)
    names: list[str] = []
    branches: list[_Schema] = []
    for spec, owner in entries:
        own = [spec.name] if count[spec.name] == 1 else []
        own.append(f"{owner}/{spec.name}")
        names += own
        condition: _Schema = {"properties": {"name": {"enum": own}}}
        if spec.name != DEFAULT_TRAINER or kind != "trainer":
            condition["required"] = ["name"]
        branches.append({"if": condition, "then": _options_schema(spec, owner, defs)})
    required = [] if kind == "trainer" else ["name"]
    return {
        "type": "object",
        "required": required,
        "properties": {"name": {"enum": names}},
        **({"allOf": branches} if branches else {}),
    }


def _options_schema(spec: ComponentSpec, owner: str, defs: _Schema) -> _Schema:
    prefix = f"{spec.kind}.{owner}.{spec.name}."
    options = config_model(spec).model_json_schema(ref_template=f"{_DEFS}{prefix}{{model}}")
    for name, inner in options.pop("$defs", {}).items():
        if name != "ComponentValue":
            defs[prefix + name] = _linked(inner)
    options = _linked(options)
    entry = _ENTRIES.get(spec.kind, Entry).model_json_schema(ref_template=_DEFS + "{model}")
    keys = RESERVED.get(spec.kind, ("name",))
    reserved = {key: entry["properties"][key] for key in keys}
    return {
        "description": spec.summary,
        "properties": {**reserved, **options.get("properties", {})},
        "required": options.get("required", []),
        "additionalProperties": False,
    }


def _linked(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """Return the schema with options that are components pointing at their kind."""
    if isinstance(value, list):
        return [_linked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "x-mlkit-component" in value:
        return _ref(value["x-mlkit-component"])
    return {key: _linked(item) for key, item in value.items()}


def _stage(properties: _Schema) -> _Schema:
    """Return the schema of a stage: its lists are complete, its mappings only a share."""
    share = {"type": ["object", "null"]}
    return {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            key: value if key == "name" or value.get("type") == "array" else share
            for key, value in properties.items()
            if key not in STAGE_FIXED
        },
    }
