"""Which official key becomes which of ours, and the strict renaming by such a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

AFFINE = ("weight", "bias")  # of a linear layer, a convolution, or a norm without statistics
FROZEN_NORM = (*AFFINE, "running_mean", "running_var")
ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
_LISTED = 12  # keys that an error names of each sort


@dataclass(frozen=True)
class Move:
    """One tensor's way.

    Args:
        old: Official key.
        new: Our key; several: the tensor is cut along its first axis into as many equal pieces.
    """

    old: str
    new: tuple[str, ...]


@dataclass(frozen=True)
class Unused:
    """A key of the checkpoint that no tensor of ours comes from."""

    old: str
    reason: str


def leaves(old: str, new: str, names: Sequence[str] = AFFINE) -> Iterator[Move]:
    """Yield the moves of a module's own tensors, which keep their names."""
    for name in names:
        yield Move(f"{old}.{name}", (f"{new}.{name}",))


def prefixed(moves: Iterable[Move], old: str, new: str) -> list[Move]:
    """Return the moves with a prefix before the old and another before the new keys."""
    return [Move(old + move.old, tuple(new + name for name in move.new)) for move in moves]


def rename(state: Mapping[str, Tensor], moves: Sequence[Move]) -> dict[str, Tensor]:
    """Return a state dict under our keys; every key must be named by exactly one move.

    Raises:
        WeightsError: A key is missing or unknown; both are listed.
    """
    wanted = {move.old for move in moves}
    missing = [move.old for move in moves if move.old not in state]
    unknown = [key for key in state if key not in wanted]
    if missing or unknown:
        told = [f"missing {_some(missing)}"] * bool(missing)
        told += [f"unknown {_some(unknown)}"] * bool(unknown)
        raise WeightsError(
            f"the checkpoint's keys are not those of DVIS-DAQ: {'; '.join(told)}",
            hint="checkpoints of other systems, or with modules added, cannot be converted",
        )
    renamed: dict[str, Tensor] = {}
    for move in moves:
        renamed |= zip(move.new, pieces(state[move.old], move), strict=True)
    return renamed


def pieces(tensor: Tensor, move: Move) -> tuple[Tensor, ...]:
    """Return the tensor cut for its new keys.

    Raises:
        WeightsError: Its first axis does not divide.
    """
    if len(move.new) == 1:
        return (tensor,)
    if tensor.ndim == 0 or len(tensor) % len(move.new):
        shape, parts = tuple(tensor.shape), len(move.new)
        raise WeightsError(f"{move.old}: shape {shape} cannot be cut into {parts} equal parts")
    return torch.chunk(tensor, len(move.new))


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} ({', '.join(keys[:_LISTED])}{more})"
