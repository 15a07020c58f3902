"""JSON Schema of the whole run file, for editors."""

# Plain JSON values, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from mlkit_core import plugins
from mlkit_core.config.fields import Part, config_model
from mlkit_core.config.frame import EncoderPart, FusionPart, LossPart, RunConfig
from mlkit_core.config.merge import DEFAULT_TRAINER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Schema = dict[str, Any]
_PARTS: dict[plugins.Kind, type[Part]] = {
    "encoder": EncoderPart,
    "fusion": FusionPart,
    "loss": LossPart,
}
_DEFS = "#/$defs/"


def schema(catalogue: plugins.Catalogue | None = None) -> _Schema:
    """Return the JSON Schema (draft 2020-12) of run files with these components.

    Raises:
        PluginError: The options of a component cannot be imported.
    """
    catalogue = catalogue or plugins.load_catalogue()
    models = [config_model(spec) for spec, _ in catalogue.components()]
    types = dict.fromkeys([RunConfig, Part, *_PARTS.values(), *models])
    refs, shared = models_json_schema([(model, "validation") for model in types])
    defs: _Schema = shared["$defs"]

    def of(model: type) -> _Schema:
        return defs[refs[model, "validation"]["$ref"].removeprefix(_DEFS)]

    kinds = {kind: _kind(kind, catalogue.components(kind), of) for kind in plugins.KINDS}
    stage = defs.pop("StageConfig")["properties"]
    properties = {**stage, **defs.pop("RunConfig")["properties"], "stages": _stages(stage)}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mlkit run file",
        **_mapping(properties, ["name"]),
        "$defs": {**defs, **kinds},
    }
    return json.loads(json.dumps(whole), object_hook=_linked)


def _mapping(properties: _Schema, required: list[str]) -> _Schema:
    keys = {"properties": properties, "required": required}
    return {"type": "object", **keys, "additionalProperties": False}


def _kind(
    kind: plugins.Kind, entries: Sequence[plugins.Component], of: Callable[[type], _Schema]
) -> _Schema:
    """Return the schema of a component of a kind: its options depend on its name."""
    reserved = of(_PARTS.get(kind, Part)).get("properties", {})
    branches: list[_Schema] = []
    names: list[str] = []
    for spec, owner in entries:
        own, options = [spec.name, f"{owner}/{spec.name}"], of(config_model(spec))
        names += own
        by_default = (kind, spec.name) == ("trainer", DEFAULT_TRAINER)
        named = {"properties": {"name": {"enum": own}}, "required": [] if by_default else ["name"]}
        properties = {"name": {}, **reserved, **options.get("properties", {})}
        then = _mapping(properties, options.get("required", []))
        branches.append({"if": named, "then": {"description": spec.summary, **then}})
    required = [] if kind == "trainer" else ["name"]
    whole = {"type": "object", "properties": {"name": {"enum": names}}, "required": required}
    return {**whole, "allOf": branches} if branches else whole


def _stages(stage: _Schema) -> _Schema:
    """Return the schema of stages: their lists are complete, their mappings only a share."""
    properties = {
        key: value if value.get("type") == "array" else {"type": ["object", "null"]}
        for key, value in stage.items()
    }
    item = _mapping({**properties, "name": stage["name"]}, ["name"])
    return {"type": "array", "minItems": 1, "items": item}


def _linked(value: _Schema) -> _Schema:
    """Return an option that is a component as a reference to its kind, anything else as it is."""
    kind = value.get("x-mlkit-component")
    return {"$ref": _DEFS + kind} if kind else value
