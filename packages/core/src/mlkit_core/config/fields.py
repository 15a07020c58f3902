"""What run files are made of: options, paths, and components with options of their own."""

# Values before validation, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002  # pydantic reads it
from pydantic_core import core_schema

from mlkit_core import plugins
from mlkit_core.config import explain
from mlkit_core.errors import PluginError

# What a run file says of a component beside its options.
_BESIDE: dict[plugins.Kind, tuple[str, ...]] = {
    "encoder": ("input", "cache", "lora", "weights"),
    "fusion": ("as",),
    "loss": ("as", "weight"),
}


@dataclass(frozen=True)
class RunFileContext:
    """What validators see while a run file is read, as pydantic's context.

    Args:
        folder: Where the run file lies.
        catalogue: Where components are looked up.
        reserved: Keys beside the options of the component that is being read.
    """

    folder: Path
    catalogue: plugins.Catalogue
    reserved: tuple[str, ...] = ()


class Config(pydantic.BaseModel):
    """Base of every component's options: unknown fields are refused, values are frozen."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, value: Any, handler: Any, info: pydantic.ValidationInfo) -> Any:  # noqa: ANN401  # pydantic's
        try:
            return handler(value)
        except pydantic.ValidationError as err:
            if not isinstance(info.context, RunFileContext):
                raise
            raise explain.in_our_words(err, [*info.context.reserved, *keys_of(cls)]) from None


def keys_of(model: type[Config]) -> list[str]:
    """Return the keys that a run file may give such a model."""
    return [field.alias or name for name, field in model.model_fields.items()]


def from_run_file(path: Path, info: pydantic.ValidationInfo) -> Path:
    """Return the path from the run file's folder; as it stands where no run file is read."""
    path = path.expanduser()
    return info.context.folder / path if isinstance(info.context, RunFileContext) else path


RunPath = Annotated[Path, pydantic.AfterValidator(from_run_file)]
"""A path in a run file: a relative one starts at the run file's folder, not where one stands."""


class Frame(Config):
    """A mapping of the frame: a key that is null counts as absent, so that stages can remove it."""

    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:  # noqa: ANN401  # not validated yet
        if not isinstance(value, Mapping):
            return value
        return {k: v for k, v in value.items() if v is not None or k not in keys_of(cls)}


class Part(Frame):
    """One component of a run file: its spec and its validated options."""

    spec: SkipJsonSchema[pydantic.InstanceOf[plugins.ComponentSpec]]
    owner: SkipJsonSchema[str]  # the plugin that yields it
    options: SkipJsonSchema[Mapping[str, Any]] = pydantic.Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The component's name."""
        return self.spec.name

    @pydantic.field_validator("options")
    @classmethod
    def _checked(cls, options: Any, info: pydantic.ValidationInfo) -> Any:  # noqa: ANN401  # pydantic's
        """Check what a run file says; what Python code says is checked by the component itself."""
        if not isinstance(info.context, RunFileContext):
            return options
        return dict(config_model(info.data["spec"]).model_validate(options, context=info.context))


class _Written(Config):
    """A component as it was written: a name, and anything else."""

    model_config = pydantic.ConfigDict(extra="allow")

    name: str


class _NoOptions(Config):
    """Of a component that takes none."""


def config_model(spec: plugins.ComponentSpec) -> type[Config]:
    """Return the model of a component's options.

    Raises:
        PluginError: It cannot be imported, is no `Config`, or has a reserved field.
    """
    model = plugins.import_target(spec.config) if spec.config else _NoOptions
    if not (isinstance(model, type) and issubclass(model, Config)):
        raise PluginError(f"{spec.config}: must be a subclass of mlkit_core.Config")
    for key in set(keys_of(model)) & {"name", *_BESIDE.get(spec.kind, ())}:
        raise PluginError(f"{spec.config}: option {key!r} is reserved for the run file")
    return model


@dataclass(frozen=True)
class OfKind:
    """Marks a part with its kind, and makes it of what a run file says: `{name: film, dim: 8}`."""

    kind: plugins.Kind

    def __get_pydantic_core_schema__(self, part: type[Part], _: object) -> core_schema.CoreSchema:
        def read(value: object, info: pydantic.ValidationInfo) -> Part:
            return value if isinstance(value, part) else self._read(part, value, info.context)

        return core_schema.with_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, Any]:
        return {"type": "object", "x-mlkit-component": self.kind}

    def _read(self, part: type[Part], value: object, context: RunFileContext | None) -> Part:
        context = context or RunFileContext(Path(), plugins.load_catalogue())
        written = _Written.model_validate(value, context=context)
        reserved = () if part is Part else _BESIDE[self.kind]  # a nested part has options alone
        given = dict(written.model_extra or {})
        beside = {key: given.pop(key) for key in reserved if key in given}
        try:
            spec, owner = context.catalogue.find(self.kind, written.name)
            config_model(spec)
        except PluginError as err:
            raise explain.of_name(err) from err
        return part.model_validate(
            {"spec": spec, "owner": owner, "options": given, **beside},
            context=replace(context, reserved=("name", *reserved)),
        )


def Component(kind: plugins.Kind) -> Any:  # noqa: ANN401, N802  # used as a type: `backbone: Component("encoder")`
    """Return the type of an option that is itself a component of this kind: a `Part`."""
    return Annotated[Part, OfKind(kind)]
