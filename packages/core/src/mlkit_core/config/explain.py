"""Turns pydantic's errors into mlkit's words: what is wrong, the nearest name, what was got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from mlkit_core.config.tree import Node, Problem, joined, locate
from mlkit_core.plugins.catalogue import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

MISSING = "required field is missing"
_FINAL = "mlkit"  # the type of errors whose message is already ours
_SHAPES = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_LONGEST = 60
_Loc = tuple[int | str, ...]


def explained(
    error: ValidationError, model: type[BaseModel], also: Iterable[str] = ()
) -> Iterator[tuple[_Loc, str, str]]:
    """Yield location, message and `, got …` (or nothing) of each error.

    Args:
        error: From validating with `model`.
        model: Whose fields the hints name.
        also: Further names that are known at the top, for hints.
    """
    for item in error.errors():
        loc, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            known = _names_at(model, loc[:-1]) + (list(also) if len(loc) == 1 else [])
            few = "; it takes no options" if known == ["name"] else ""
            yield loc, f"unknown field{few or suggest(str(loc[-1]), known)}", ""
        elif kind == "missing":
            yield loc, MISSING, ""
        else:
            yield loc, *_worded(item)


def _worded(item: ErrorDetails) -> tuple[str, str]:
    kind, message = item["type"], item["msg"]
    if kind == _FINAL:
        return message, ""
    if kind in ("value_error", "assertion_error"):
        return str(item.get("ctx", {}).get("error", message)), ""
    if kind in ("too_short", "too_long"):
        return message[0].lower() + message[1:].replace(" after validation", ""), ""
    if kind in _SHAPES:
        message = f"input should be {_SHAPES[kind]}"
    return message[0].lower() + message[1:], f", got {_shown(item['input'])}"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def final(errors: Iterable[tuple[_Loc, str]]) -> ValidationError:
    """Return a validation error with finished messages, for an option that is a component."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(_FINAL, "{text}", {"text": message}), loc=loc, input=None
        )
        for loc, message in errors
    ]
    return ValidationError.from_exception_data("component", details)


def problems_of(
    error: ValidationError, node: Node, model: type[BaseModel], also: Iterable[str] = ()
) -> list[Problem]:
    """Return the problems of a tree, each where its value was written; unions become one."""
    found: dict[tuple[str, str], tuple[Node, list[str | int], list[str], str]] = {}
    for loc, message, got in explained(error, model, also):
        at, rest = locate(node, loc)
        below = rest[-1:] if message == MISSING else []
        key = (at.source, joined(at.path, *below))
        messages = found[key][2] if key in found else []
        found[key] = (at, below, [*messages, message], got)
    return [
        at.problem(" or ".join(dict.fromkeys(messages)) + got, *below)
        for at, below, messages, got in found.values()
    ]


def _names_at(model: type[BaseModel], loc: _Loc) -> list[str]:
    """Return the fields of the models at `loc`; indices and keys of mappings are passed over."""
    current = [model]
    for key in loc:
        fields = [_field(owner, str(key)) for owner in current]
        inner = [found for field in fields if field for found in _models(field.annotation)]
        current = inner or current
    return [field.alias or name for owner in current for name, field in owner.model_fields.items()]


def _field(model: type[BaseModel], key: str) -> Any:  # noqa: ANN401  # pydantic's FieldInfo or None
    named = (f for name, f in model.model_fields.items() if key in (name, f.alias))
    return next(named, None)


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
