"""The maps that a mask's decoder reads, fine to coarse, and the steps between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlkit_angioseg.heads.masks import check_maps
from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import FeatureSpec, Role

_WIDTHS = {1: 16, 2: 32, 4: 64, 8: 64}
_WIDEST = 128


class Level(NamedTuple):
    """One map that the decoder reads; `role` None for a step between maps that are far apart."""

    role: Role | None
    name: str
    channels: int
    stride: float


def read_levels(inputs: Mapping[Role, FeatureSpec], on: Role, stem: Role | None) -> list[Level]:
    """Return the maps of stem and role, fine to coarse.

    Raises:
        BuildError: A role has no maps, or the stem is coarser than the role.
    """
    levels: list[Level] = []
    for role in (stem, on) if stem is not None else (on,):
        spec = check_maps(role, inputs)
        levels += [
            Level(role, name, spec.channels[name], spec.strides[name]) for name in spec.channels
        ]
    strides = [level.stride for level in levels]
    if stem == on or strides != sorted(strides):
        raise BuildError(
            f"stem: role {stem!r} must have finer maps than {on!r}, got strides {strides}"
        )
    return levels


def choose_widths(levels: Sequence[Level], widths: Sequence[int] | None) -> list[int]:
    """Return the channels of each level: the given ones, else the usual ones at its stride.

    Raises:
        BuildError: There are not as many as levels.
    """
    if widths is None:
        return [min(level.channels, _width_at(level.stride)) for level in levels]
    if len(widths) != len(levels):
        have = ", ".join(f"{level.role}.{level.name}" for level in levels)
        raise BuildError(f"widths: expected {len(levels)} for maps {have}, got {len(widths)}")
    return list(widths)


def _width_at(stride: float) -> int:
    """Return the usual width at a stride: that of the finest listed stride that is no finer."""
    return next((width for listed, width in _WIDTHS.items() if stride <= listed), _WIDEST)


def fill_levels(levels: Sequence[Level], widths: Sequence[int]) -> tuple[list[Level], list[int]]:
    """Return levels with steps of two between maps whose strides are further apart."""
    filled, chosen = [levels[0]], [widths[0]]
    for level, width in zip(levels[1:], widths[1:], strict=True):
        while filled[-1].stride * 2 < level.stride:
            stride = filled[-1].stride * 2
            filled.append(Level(None, f"step{stride:g}", 0, stride))
            chosen.append(min(width, _width_at(stride)))
        filled.append(level)
        chosen.append(width)
    return filled, chosen
