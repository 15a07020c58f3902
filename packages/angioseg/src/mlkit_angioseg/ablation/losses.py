"""The axis `loss`: sums of losses with equal weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LOSSES = ("bce", "dice", "focal", "cldice", "focal-tversky")
# The authors of clDice never use it alone: (1 - a) Dice + a clDice, with a up to 0.5 (CVPR 2021,
# sec. 4). Focal Tversky takes the root 1 / gamma with gamma = 4/3 (ISBI 2019, sec. 2.2).
_SHORT = {"cldice": ("dice", "cldice")}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"focal-tversky": {"gamma": 0.75}}


def losses_of(value: str) -> tuple[str, ...]:
    """Return the losses that a value of the axis names: `bce+dice`, `cldice`."""
    return _SHORT.get(value) or tuple(value.split("+"))


def check_losses(value: str) -> None:
    """Raise InputError where a value names an unknown loss, or one twice."""
    names = losses_of(value)
    unknown = [name for name in names if name not in _LOSSES]
    hint = f"there are {', '.join(_LOSSES)}, and sums such as bce+dice"
    if unknown:
        raise InputError(f"--loss: no loss {unknown[0]!r} in {value!r}", hint=hint)
    if len(set(names)) < len(names):
        raise InputError(f"--loss: a loss stands twice in {value!r}", hint=hint)


def loss_list(value: str, base: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Return the entries of `losses`, None where the base has these losses already.

    Weights are equal and add up to 1. A loss that the base has, too, keeps its options.

    Args:
        value: Of the axis.
        base: The base's entries as its run file writes them.
    """
    names = losses_of(value)
    own = {str(entry["name"]).rpartition("/")[2]: entry for entry in base}
    if set(own) == set(names) and len(own) == len(base):
        return None
    entries: list[dict[str, Any]] = []
    for name in names:
        kept = {k: v for k, v in own.get(name, {}).items() if k not in ("name", "weight", "as")}
        options = kept if name in own else dict(_OPTIONS.get(name, {}))
        entries.append({"name": name, "weight": round(1 / len(names), 6), **options})
    return entries
