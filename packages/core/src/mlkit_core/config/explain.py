"""Turns pydantic's errors into mlkit's words: what is wrong, the nearest name, what was got."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from mlkit_core.config.tree import Node, Problem, joined, locate
from mlkit_core.plugins.catalogue import suggest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from mlkit_core.errors import PluginError

MISSING = "required field is missing"
PART_NAME = r"^[A-Za-z0-9_-]+$"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DOTTED = r"^([A-Za-z0-9_-]+|\[\d+-\d+\])(\.([A-Za-z0-9_-]+|\[\d+-\d+\]))*$"
WEIGHTS = r"^(auto|none|hf:[^/\s]+/\S+|.+\.(safetensors|pt|pth))$"
MUST_BE = {
    PART_NAME: "letters, digits, '_' and '-' only",
    RUN_NAME: "a folder's name: letters, digits, '.', '_', '-'",
    DOTTED: "dotted names such as encoders.image.blocks.[0-5]",
    WEIGHTS: "auto, none, a .safetensors, .pt or .pth file, or hf:owner/repository/file",
}
_OURS = "mlkit"  # the type of errors that are already in our words
_SHAPES = {
    "model_type": "mapping",
    "dict_type": "mapping",
    "tuple_type": "list",
    "list_type": "list",
}


def in_our_words(error: ValidationError, known: list[str]) -> ValidationError:
    """Return the error with every message final; `known` are the names that hints may offer."""
    details = [
        _detail(item["loc"], item["input"], **_words(item, known)) for item in error.errors()
    ]
    return ValidationError.from_exception_data("run file", details)


def of_name(error: PluginError) -> ValidationError:
    """Return what is wrong with the `name` of a component."""
    detail = _detail(("name",), None, message=str(error), hint=error.hint)
    return ValidationError.from_exception_data("run file", [detail])


def _detail(
    loc: tuple[int | str, ...], value: object, *, message: str, got: str = "", hint: str = ""
) -> InitErrorDetails:
    """Return an error; those of a union's branches differ in `message`, never in `got`."""
    words = {"message": message, "got": got, "hint": hint}
    error = PydanticCustomError(_OURS, "{message}{got}", words)
    return InitErrorDetails(type=error, loc=loc, input=value)


def _words(item: ErrorDetails, known: list[str]) -> dict[str, str]:
    kind, context = item["type"], item.get("ctx", {})
    if kind == _OURS:
        return context
    if kind == "missing":
        return {"message": MISSING}
    if kind == "extra_forbidden":
        names = known if len(item["loc"]) == 1 else []
        few = "; it takes no options" if names == ["name"] else suggest(str(item["loc"][-1]), names)
        return {"message": f"unknown field{few}"}
    if "error" in context:  # raised by a validator, in words of its own
        return {"message": str(context["error"])}
    message = item["msg"][0].lower() + item["msg"][1:]
    if kind in _SHAPES:
        message = f"input should be a {_SHAPES[kind]}"
    elif context.get("pattern") in MUST_BE:
        message = f"must be {MUST_BE[context['pattern']]}"
    return {"message": message, "got": f", got {_shown(item['input'])}"}


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value!r:.60}"


def problems_of(error: ValidationError, root: Node) -> list[Problem]:
    """Return the problems of a tree, each where its value was written; unions become one."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for item in error.errors():
        node, rest = locate(root, item["loc"])
        words = item.get("ctx", {})
        path = joined(node.path, *rest[-1:] if words["message"] == MISSING else [])
        found.setdefault((node.source, path), []).append(words)
    problems: list[Problem] = []
    for (source, path), words in found.items():
        message = " or ".join(dict.fromkeys(each["message"] for each in words))
        problems.append(Problem(source, path, message + words[-1]["got"], words[-1]["hint"]))
    return problems
