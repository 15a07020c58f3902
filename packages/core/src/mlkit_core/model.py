"""The model: encoders by role fill a scope, fusions write to it, the head reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Batch, Features, FeatureSpec, ModelOutput, Role, RoleSpec, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LEVELS = ("features", "fused", "head")


class Model(nn.Module):
    """Encoders by role, then fusions, then the head.

    Args:
        encoders: Role to encoder.
        fusions: Role that it writes to fusion, in order.
        head: The head, None for a model that stops at features.
        reads: Encoder's role to the data's input that it reads.
        roles: The data's inputs.
        specs: Role to published spec, leads set.
    """

    def __init__(
        self,
        encoders: Mapping[Role, nn.Module],
        fusions: Mapping[Role, nn.Module],
        head: nn.Module | None,
        *,
        reads: Mapping[Role, Role],
        roles: Mapping[Role, RoleSpec],
        specs: Mapping[Role, FeatureSpec],
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.fusions = nn.ModuleDict(dict(fusions))
        self.head = head
        self.losses = nn.ModuleDict()  # filled by `build_losses`: trained, saved and moved alike
        self.reads, self.roles, self.specs = dict(reads), dict(roles), dict(specs)

    def forward(
        self,
        batch: Batch,
        *,
        step: Step | None = None,
        states: Mapping[Role, object] | None = None,
    ) -> ModelOutput:
        """Run as far as `batch.upto`; `states` holds what the item's last window left, by role."""
        states, depth = states or {}, _LEVELS.index(batch.upto)
        scope: dict[Role, Features] = {}
        for role in self.encoders:
            scope[role] = self.encode(role, batch, step=step, state=states.get(role))
        for role, fusion in self.fusions.items() if depth > 0 else ():
            extra = _keywords(fusion, batch, step, states.get(role))
            scope[role] = _call(f"fusions.{role}", fusion, scope, extra)
        if depth < 2 or self.head is None:
            return ModelOutput(head=None, scope=scope)
        extra = _keywords(self.head, batch, step, states.get("head"))
        return ModelOutput(head=_call("head", self.head, scope, extra), scope=scope)

    def encode(
        self, role: Role, batch: Batch, *, step: Step | None = None, state: object | None = None
    ) -> Features:
        """Return one role's features: those that the batch brings, else the encoder's."""
        source, encoder = self.reads[role], self.encoders[role]
        lead, known = len(self.roles[source].lead), batch.features.get(role)
        valid, mask = batch.valid.get(source), batch.masks.get(source)
        if mask is not None and lead > 1:
            mask = mask.flatten(0, lead - 1)
        if known is None:
            extra = _keywords(encoder, batch, step, state)
            if getattr(encoder, "uses_mask", False):
                extra["mask"] = mask
            run, given = encoder, batch.trunks.get(role)
            if given is None:
                given = self.rows(role, batch)
            else:
                run = cast("Any", encoder).finish
            if lead and valid is None and source in batch.inputs:
                rows = batch.inputs[source]
                valid = torch.ones(rows.shape[:lead], dtype=torch.bool, device=rows.device)
            known = cast("Features", _call(f"encoders.{role}", run, given, extra))
        return replace(
            known,
            valid=valid if known.valid is None else known.valid,
            mask=mask if known.mask is None else known.mask,
        )

    def rows(self, role: Role, batch: Batch) -> Tensor:
        """Return what a role's encoder reads, `[R, …]`: its input with the lead folded."""
        source = self.reads[role]
        if source not in batch.inputs:
            raise BuildError(f"encoders.{role}: the batch holds no input {source!r}")
        rows, lead = batch.inputs[source], len(self.roles[source].lead)
        return rows.flatten(0, lead - 1) if lead > 1 else rows

    def trunk(self, role: Role) -> nn.Module | None:
        """Return what a cache keeps in an encoder's place, None where that is all of it."""
        encoder: Any = self.encoders[role]
        return encoder.trunk if hasattr(encoder, "finish") else None


def _keywords(
    part: nn.Module, batch: Batch, step: Step | None, state: object | None
) -> dict[str, Any]:
    """Give a part what it declares; the target only while that part itself is training."""
    extra: dict[str, Any] = {}
    if getattr(part, "uses_target", False):
        legal = part.training and isinstance(batch.target, part.target_type)  # pyright: ignore[reportArgumentType]  # declared with uses_target
        extra["target"] = batch.target if legal else None
    if getattr(part, "uses_state", False):
        extra["state"] = state
    if getattr(part, "uses_step", False):
        extra["step"] = step
    return extra


def _call(where: str, part: Callable[..., Any], argument: object, extra: Mapping[str, Any]) -> Any:  # noqa: ANN401  # a part's own output
    try:
        return part(argument, **extra)
    except BuildError as err:
        raise BuildError(f"{where}: {err}", hint=err.hint) from err
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as err:
        raise TrainingError(f"{where}: {err}; {_shapes(argument)}") from err


def _shapes(argument: object) -> str:
    if isinstance(argument, Tensor):
        return f"input {tuple(argument.shape)}"
    if isinstance(argument, dict):
        shapes = {
            role: {level: tuple(m.shape) for level, m in features.maps.items()}
            for role, features in argument.items()
        }
        return f"scope {shapes}"
    return type(argument).__name__
