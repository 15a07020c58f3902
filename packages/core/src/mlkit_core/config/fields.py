"""What plugin authors need to describe options: the base model, component and path types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationInfo
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    from mlkit_core.plugins.specs import Kind


class Config(BaseModel):
    """Base of every component's options: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ComponentValue(BaseModel):
    """An option that is itself a component: its name and its own options, validated alike."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str
    _kind: Kind | None = PrivateAttr(default=None)

    @property
    def kind(self) -> Kind | None:
        """The kind that the option's type names; None where the value was built by hand."""
        return self._kind

    @property
    def options(self) -> dict[str, object]:
        """The component's own options, without the name; defaults are filled in."""
        return dict(self.model_extra or {})


@dataclass(frozen=True)
class RunFileContext:
    """What the types below see while a run file is validated, as pydantic's context.

    Args:
        folder: Where the run file lies.
        validated: Gives validated options for (kind, name, options); raises `ValidationError`.
    """

    folder: Path
    validated: Callable[[Kind, str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class _OfKind:
    """Marks a `ComponentValue` with its kind, and validates it where a run file is read."""

    kind: Kind

    def __get_pydantic_core_schema__(
        self, source: type[ComponentValue], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object", "x-mlkit-component": self.kind}

    def _check(self, value: ComponentValue, info: ValidationInfo) -> ComponentValue:
        options: Mapping[str, Any] = value.options
        if isinstance(info.context, RunFileContext):
            options = info.context.validated(self.kind, value.name, options)
        checked = ComponentValue(name=value.name, **options)
        checked._kind = self.kind  # pyright: ignore[reportPrivateUsage]  # set here alone
        return checked


def Component(kind: Kind) -> Any:  # noqa: ANN401, N802  # used as a type: `backbone: Component("encoder")`
    """Return the type of an option that is itself a component of this kind."""
    return Annotated[ComponentValue, _OfKind(kind)]


def from_run_file(path: Path, info: ValidationInfo) -> Path:
    """Return the path from the run file's folder; as it stands where no run file is read."""
    path = path.expanduser()
    return info.context.folder / path if isinstance(info.context, RunFileContext) else path


RunPath = Annotated[Path, AfterValidator(from_run_file)]
"""A path in a run file: a relative one starts at the run file's folder, not where one stands."""
