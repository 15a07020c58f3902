"""Components from a name and options, as if a run file had named them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from mlkit_core.config.fields import Component, RunFileContext
from mlkit_core.errors import InputError
from mlkit_core.plugins import load_catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.config.frame import Part
    from mlkit_core.plugins.specs import Kind


def make_part(kind: Kind, name: str, options: Mapping[str, object]) -> Part:
    """Return a component's part of a run; relative paths start where one stands.

    Raises:
        InputError: There is no such component, or it does not take these options.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(Component(kind))
    context = RunFileContext(Path.cwd(), load_catalogue())
    try:
        return adapter.validate_python({"name": name, **options}, context=context)
    except ValidationError as err:
        problems = "; ".join(_line(kind, problem) for problem in err.errors())
        raise InputError(problems) from err


def _line(kind: str, problem: Any) -> str:  # noqa: ANN401  # pydantic's ErrorDetails
    where = ".".join(str(key) for key in (kind, *problem["loc"]))
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
