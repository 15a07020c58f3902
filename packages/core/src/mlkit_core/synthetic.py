"""Batches made up from what the data publishes: no file is read."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_core.types import Batch, SampleMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlkit_core.types import Needs, Role, RoleSpec

_SMALLEST = 32  # px; below it the coarsest maps of most encoders shrink to one cell


def ramp(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Return values that rise evenly from `low` to `high`, in memory order."""
    return torch.linspace(low, high, prod(shape)).reshape(shape)


def noise(shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Return values drawn evenly between `low` and `high`."""
    return torch.rand(shape) * (high - low) + low


def legal_size(needs: Needs, wanted: int = _SMALLEST) -> int:
    """Return the smallest legal size of at least `wanted` pixels, else the largest legal one."""
    if needs.sizes is not None:
        return min((s for s in needs.sizes if s >= wanted), default=max(needs.sizes))
    return ceil(wanted / needs.size_multiple) * needs.size_multiple


def synthetic_batch(
    roles: Mapping[Role, RoleSpec],
    needs: Mapping[Role, Needs],
    fill: Callable[[tuple[int, ...], float, float], Tensor],
    *,
    rows: int = 2,
    wanted: int = _SMALLEST,
) -> Batch:
    """Return a batch without target of every input that an encoder reads.

    Args:
        roles: What the data supplies.
        needs: Input to what its encoders ask of it, as `input_needs` gives.
        fill: Makes one input from its shape and its smallest and largest value.
        rows: Of the batch. Roles with a lead get `rows` along its first dimension, 2 along others.
        wanted: Height and width in pixels, raised to the next legal size.
    """
    inputs: dict[Role, Tensor] = {}
    for role in (role for role in roles if role in needs):
        size = legal_size(needs[role], wanted)
        lead = (rows, *[2] * (len(roles[role].lead) - 1))
        row = (n if n is not None else size for n in roles[role].shape)
        low, high = roles[role].value_range or (0.0, 1.0)
        inputs[role] = fill((*lead, *row), low, high)
    return Batch(inputs=inputs, meta=tuple(SampleMeta(key=f"synthetic-{n}") for n in range(rows)))


def named_tensors(value: object, name: str = "") -> dict[str, Tensor]:
    """Return the tensors within a dataclass by dotted field names; nested values are walked."""
    if isinstance(value, Tensor):
        return {name: value}
    if is_dataclass(value):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, (list, tuple)) else []
    found: dict[str, Tensor] = {}
    for key, item in items:
        found |= named_tensors(item, f"{name}.{key}" if name else str(key))
    return found
