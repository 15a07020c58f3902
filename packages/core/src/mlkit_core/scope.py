"""How fusions and heads find the roles that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from mlkit_core.types import Features, FeatureSpec, Role


def choose_on(inputs: Mapping[Role, FeatureSpec], on: Role | None) -> Role:
    """Return the role to condition or to read: `on`, or the first of `inputs` where it is None.

    Build passes a resolved `on`: the role written last, at first the data's first role.
    """
    role = on if on is not None else next(iter(inputs), None)
    if role is None or role not in inputs:
        raise BuildError(f"on: no role {role!r}; there are {', '.join(inputs) or 'none'}")
    return role


def choose_by(
    inputs: Mapping[Role, FeatureSpec],
    on: Role,
    by: Role | None,
    fits: Callable[[FeatureSpec], bool],
    wants: str,
) -> Role:
    """Return the conditioning role: `by`, or the one other role that fits.

    Args:
        inputs: Role to spec.
        on: The role that is conditioned.
        by: The run file's choice, or None.
        fits: Whether a role's spec can serve.
        wants: What `fits` asks for, for the error: "a vector".

    Raises:
        BuildError: `by` is unknown or does not fit; none fits; several fit (all are listed).
    """
    if by is not None:
        if by not in inputs:
            raise BuildError(f"by: no role {by!r}; there are {', '.join(inputs)}")
        if not fits(inputs[by]):
            raise BuildError(f"by: role {by!r} must have {wants}, got {_say(inputs[by])}")
        return by
    fitting = [role for role, spec in inputs.items() if role != on and fits(spec)]
    if len(fitting) != 1:
        rest = {role: spec for role, spec in inputs.items() if role != on}
        have = (
            "; ".join(f"{role} has {_say(spec)}" for role, spec in rest.items()) or "no other role"
        )
        what = "none has it" if not fitting else f"several have it ({', '.join(fitting)})"
        raise BuildError(f"by: one role beside {on!r} must have {wants}, {what}: {have}")
    return fitting[0]


def _say(spec: FeatureSpec) -> str:
    parts = [f"maps {dict(spec.channels)}"] if spec.channels else []
    parts += [f"a vector of {spec.vector_dim}"] if spec.vector_dim else []
    parts += [f"tokens of {spec.token_dim}"] if spec.token_dim else []
    parts += [f"lead ({', '.join(spec.lead)})"] if spec.lead else []
    return ", ".join(parts) or "nothing"


def check_lead(
    inputs: Mapping[Role, FeatureSpec], on: Role, by: Role, *, pool: bool = False
) -> None:
    """Raise BuildError unless `by` has no lead, that of `on`, or is pooled to one row."""
    lead = inputs[by].lead
    if pool or lead in ((), inputs[on].lead):
        return
    raise BuildError(
        f"by: role {by!r} has lead ({', '.join(lead)}), "
        f"but {on!r} has ({', '.join(inputs[on].lead)})",
        hint="pool: true makes one row out of it",
    )


def pooled(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the masked mean over rows, `[R, …]` to `[1, …]`; only valid rows count."""
    if valid is None:
        return values.mean(0, keepdim=True)
    weights = valid.reshape(-1, *([1] * (values.ndim - 1))).to(values.dtype)  # [R, 1, …]
    return (values * weights).sum(0, keepdim=True) / weights.sum().clamp_min(1)


def align_rows(values: Tensor, on: Features, rows: int) -> Tensor:
    """Return `values [R_by, …]` as `[rows, …]`, one for each row of the conditioned role.

    One row is broadcast; one row for each first lead index (a clip) is repeated over the rest.

    Raises:
        BuildError: The rows fit neither way.
    """
    if values.shape[0] == rows:
        return values
    if values.shape[0] == 1:
        return values.expand(rows, *values.shape[1:])
    if on.valid is not None and values.shape[0] == on.valid.shape[0]:
        return values.repeat_interleave(rows // values.shape[0], dim=0)
    raise BuildError(f"by: {values.shape[0]} rows cannot condition {rows} rows")
