"""What a check is given: a component, how to build it, and its example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mlkit_core.build import build_part
from mlkit_core.config.fields import config_model
from mlkit_core.config.frame import Part
from mlkit_core.errors import MlkitError
from mlkit_core.plugins import import_target
from mlkit_core.tensors import map_tensors
from mlkit_core.types import Example, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from mlkit_core.plugins import ComponentSpec


class ContractError(AssertionError):
    """A component breaks its contract; the message says what is wrong, and what to change."""


def require(holds: object, change: str) -> None:
    """Raise ContractError unless it holds; `change` says what is wrong and what to change."""
    if not holds:
        raise ContractError(change)


def refuses(what: str, attempt: Callable[[], object]) -> None:
    """Raise unless the attempt ends in an MlkitError with a message; other errors pass through."""
    try:
        attempt()
    except MlkitError as err:
        return require(str(err), f"refuses {what} without a word: say what was expected")
    raise ContractError(f"accepts {what}: raise an MlkitError that says what was expected")


@dataclass(frozen=True)
class Subject:
    """A component under test.

    Args:
        spec: What its plugin yields.
        example: Tiny options and a legal call. `args` by kind: encoder (rows,), fusion (scope,),
            head (scope,) or (scope, meta), loss (output, batch, step), metric one
            (predictions, batch) for each item, data ({role: path},) as `open` takes it, extractor
            (batches,). `context` holds `inputs`, `num_classes`, and `target`, `state`, `step` or
            `mask` for a part that declares to use them.
    """

    spec: ComponentSpec
    example: Example

    @classmethod
    def of(cls, spec: ComponentSpec, folder: Path) -> Subject:
        """Return the component of a spec with its example, whose files lie in `folder`."""
        named = spec.example or spec.kind == "trainer"
        require(named, "no example; name one in the spec: example='module:function'")
        torch.manual_seed(0)
        return cls(spec, import_target(spec.example)(folder) if spec.example else Example())

    def build(self, seed: int = 0, **context: object) -> Any:  # noqa: ANN401  # any component
        """Return a fresh component as a run file builds it, its weights drawn from `seed`."""
        part = Part(spec=self.spec, owner="", options=validated(self.spec, self.example.options))
        torch.manual_seed(seed)
        return build_part(part, part.name, **{"num_classes": 1, **self.example.context, **context})

    def module(self) -> Any:  # noqa: ANN401  # a module with its protocol's fields
        """Return a fresh component in eval mode with every parameter moved a little.

        A gate that starts at zero passes no gradient to what stands before it at step 0.
        """
        part = self.build().eval()
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return part

    def call(self, part: nn.Module, *args: object, seed: int = 0) -> Any:  # noqa: ANN401  # its own output
        """Return the part's output on `args` (or the example's), with the keywords it declares."""
        names = ("target", "state", "step", "mask")
        used = [name for name in names if getattr(part, f"uses_{name}", False)]
        given = args or self.example.args[: 3 if self.spec.kind == "loss" else 1]
        torch.manual_seed(seed)
        return part(*map(_fresh, given), **{name: self.example.context.get(name) for name in used})


def _fresh(value: object) -> object:
    """Return a step as every batch meets it: nothing shared yet, the generator at its start."""
    if not isinstance(value, Step):
        return value
    return Step(value.iteration, value.iterations, torch.Generator().manual_seed(0))


def validated(spec: ComponentSpec, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options as a run file would give them: checked, and with defaults filled in."""
    checked = config_model(spec)(**options)
    return {name: getattr(checked, name) for name in type(checked).model_fields}


def floats(value: object) -> list[Tensor]:
    """Return every floating-point tensor within a value, in order."""
    found: list[Tensor] = []
    map_tensors(value, lambda tensor: found.append(tensor) or tensor)
    return [tensor for tensor in found if tensor.is_floating_point()]


def same(a: Sequence[Tensor], b: Sequence[Tensor], rtol: float = 0, atol: float = 0) -> bool:
    """Return whether two lists hold equal tensors; NaN equals NaN."""
    return [t.shape for t in a] == [t.shape for t in b] and all(
        torch.allclose(x, y, rtol, atol, equal_nan=True) for x, y in zip(a, b, strict=True)
    )


def fits(shape: Sequence[int | None] | None, got: Sequence[int]) -> bool:
    """Return whether a shape is as declared; None there is a free size."""
    free = tuple(shape or ())
    return len(free) == len(got) and all(a in (None, b) for a, b in zip(free, got, strict=True))
