"""What a check is given: a component, how to build it, and its example."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.build import build_part
from mlkit_core.config.fields import ComponentValue
from mlkit_core.config.frame import Part
from mlkit_core.errors import MlkitError
from mlkit_core.plugins import import_target, load_catalogue
from mlkit_core.tensors import map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlkit_core.plugins.specs import ComponentSpec, Kind
    from mlkit_core.types import Example

_OTHER = (
    *(ArithmeticError, AttributeError, AssertionError, LookupError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


class ContractError(AssertionError):
    """A component breaks its contract; the message says which part, and what to change."""


@dataclass(frozen=True)
class Subject:
    """A component under test.

    Args:
        kind: Its kind.
        name: Its name, for messages.
        make: Called with the example's options, and with those parts of its context that it names.
        example: Tiny options and a legal call. `args` by kind: encoder (rows,), fusion (scope,),
            head (scope,) or (scope, meta), loss (output, batch, step), metric one
            (predictions, batch) for each item, data ({role: path},) as `open` takes it, extractor
            (batches,). `context` holds `inputs`, `num_classes`, and `target`, `state`, `step` or
            `mask` for a part that declares to use them.
        folder: Where data has its files.
    """

    kind: Kind
    name: str
    make: Callable[..., Any]
    example: Example
    folder: Path

    @classmethod
    def of(cls, spec: ComponentSpec, folder: Path) -> Subject:
        """Return the component of a spec, built as a run file would build it."""
        where = f"{spec.kind}/{spec.name}"
        if spec.example is None:
            raise ContractError(
                f"{where}: no example; name one in the spec: example='module:function'"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            example: Example = import_target(spec.example)(folder)

        def make(**given: Any) -> Any:  # noqa: ANN401  # any component
            options = {key: given.pop(key) for key in list(given) if key in example.options}
            part = Part(spec=spec, owner="", options=validated(spec, options))
            return build_part(part, where, **given)

        return cls(spec.kind, spec.name, make, example, folder)

    def build(self, seed: int = 0, **context: object) -> Any:  # noqa: ANN401  # any component
        """Return a fresh component, its random weights drawn from `seed`."""
        given = {"num_classes": 1, **self.example.context, **context}
        names = inspect.signature(self.make).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in names.values()):
            given = {key: value for key, value in given.items() if key in names}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(**{**given, **self.example.options})

    def module(self, seed: int = 0) -> Any:  # noqa: ANN401  # a module with its protocol's fields
        """Return a fresh component with every parameter moved a little.

        A gate that starts at zero passes no gradient to what stands before it at step 0.
        """
        part = self.build(seed)
        self.require(isinstance(part, nn.Module), "must be a torch.nn.Module")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in part.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise.to(parameter.dtype))
        return part

    def call(self, part: nn.Module, *args: object, seed: int = 0) -> Any:  # noqa: ANN401  # its own output
        """Return the part's output on `args` (or the example's), with the keywords it declares."""
        extra = {
            key: self.example.context.get(key)
            for key in ("target", "state", "step", "mask")
            if getattr(part, f"uses_{key}", False)
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return part(*(args or self.args), **extra)

    @property
    def args(self) -> tuple[Any, ...]:
        """What the part is called with; a head's metas are for `decode` alone."""
        return self.example.args if self.kind == "loss" else self.example.args[:1]

    def require(self, holds: object, change: str) -> None:
        """Raise ContractError unless it holds; `change` says what is wrong and what to change."""
        if not holds:
            raise ContractError(f"{self.kind}/{self.name}: {change}")

    def refuses(self, what: str, attempt: Callable[[], object]) -> None:
        """Raise ContractError unless the attempt ends in an MlkitError with a message."""
        change = "raise a BuildError or DataError that says what was expected"
        try:
            attempt()
        except MlkitError as err:
            self.require(str(err), f"refuses {what} without a word; {change}")
        except _OTHER as err:
            self.require(False, f"meets {what} with {type(err).__name__}: {err}; {change}")
        else:
            self.require(False, f"accepts {what}; {change}")


def validated(spec: ComponentSpec, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options as a run file would give them: checked, and with defaults filled in."""
    if spec.config is None:
        return options
    config = import_target(spec.config)(**options)
    return {name: _as_part(getattr(config, name)) for name in type(config).model_fields}


def _as_part(value: object) -> object:
    if not isinstance(value, ComponentValue) or value.kind is None:
        return value
    spec, owner = load_catalogue().find(value.kind, value.name)
    return Part(spec=spec, owner=owner, options=validated(spec, value.options))


def floats(value: object) -> list[Tensor]:
    """Return every floating-point tensor within a value, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return [tensor for tensor in found if tensor.is_floating_point()]


def same(a: Any, b: Any) -> bool:  # noqa: ANN401  # any nesting of values
    """Return whether two values are equal, tensors and arrays bit by bit (NaN equals NaN)."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and _equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and not isinstance(a, (str, bytes)):
        return len(a) == len(b) and all(map(same, a, b))
    if is_dataclass(a) and not isinstance(a, type):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if hasattr(a, "__array__"):
        return same(torch.as_tensor(a), torch.as_tensor(b))
    return bool(a == b) or (a != a and b != b)  # NaN


def _equal(a: Tensor, b: Tensor) -> bool:
    return (
        torch.equal(a.nan_to_num(), b.nan_to_num()) if a.is_floating_point() else torch.equal(a, b)
    )
