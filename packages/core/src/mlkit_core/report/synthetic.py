"""Batches made up from what the data publishes: no file is read."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_core.types import Batch, SampleMeta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.model import Model
    from mlkit_core.types import Needs, Role


def synthetic_batch(
    model: Model, needs: Mapping[Role, Needs], *, rows: int = 2, size: int | Mapping[Role, int] = 32
) -> Batch:
    """Return a batch without target: noise that covers the range of each input that is read.

    Args:
        model: Knows what the data supplies.
        needs: Input to what its encoders ask of it, as `input_needs` gives.
        rows: Of the batch. Roles with a lead get `rows` along its first dimension, 2 along others.
        size: Height and width in pixels, raised to the next legal size; for each input or by name.
            A free size of what is no image is one more than `rows`.
    """
    inputs: dict[Role, Tensor] = {}
    for role, need in needs.items():
        supplied, legal = model.roles[role], rows + 1
        if len(supplied.shape) == 3:
            legal = _side(size if isinstance(size, int) else size[role], need)
        lead = (rows, *[2] * (len(supplied.lead) - 1))
        shape = (*lead, *(legal if n is None else n for n in supplied.shape))
        order = torch.randperm(prod(shape), generator=torch.Generator().manual_seed(rows))
        values = torch.linspace(*(supplied.value_range or (0.0, 1.0)), prod(shape))
        inputs[role] = values[order].reshape(shape)
    return Batch(inputs=inputs, meta=tuple(SampleMeta(key=f"synthetic-{n}") for n in range(rows)))


def _side(size: int, need: Needs) -> int:
    if need.sizes is not None:
        return min((s for s in need.sizes if s >= size), default=max(need.sizes))
    return ceil(size / need.size_multiple) * need.size_multiple


def named_tensors(value: object) -> dict[str, Tensor]:
    """Return the tensors in nested dataclasses, mappings and tuples by dotted names; no state."""
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "state"}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    found: dict[str, Tensor] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        inner = {"": item} if isinstance(item, Tensor) else named_tensors(item)
        found |= {f"{key}.{name}".rstrip("."): tensor for name, tensor in inner.items()}
    return found
