"""What a check found, and how checks run over files that may be damaged."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

View = TypeVar("View")
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether all is well, and what was looked at or is wrong."""

    check: str
    ok: bool
    detail: str


def verdict(check: str, problems: Iterable[str], good: str) -> Finding:
    """Return a finding that lists the first problems and counts them, or says what is good."""
    problems = iter(problems)
    first = list(islice(problems, _SHOWN))
    rest = sum(1 for _ in problems)
    if not first:
        return Finding(check, True, good)
    more = f"; and {rest} more" if rest else ""
    return Finding(check, False, "; ".join(first) + more)


def run_check(check: Callable[[View], Finding], view: View) -> Finding:
    """Return a check's finding; what it cannot read is a finding too.

    In a damaged database any cell may hold anything, so values of wrong types count as damage.
    """
    try:
        return check(view)
    except (sqlite3.Error, MlkitError, OSError) as err:
        return Finding(_name(check), False, f"cannot be read: {err}")
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError) as err:
        return Finding(_name(check), False, f"cannot be read: {type(err).__name__}: {err}")


def _name(check: Callable[..., Finding]) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")


def close(first: float, second: float, tolerance: float) -> bool:
    """Return whether two numbers agree, relative to the larger where that is above 1."""
    return abs(first - second) <= tolerance * max(1.0, abs(first), abs(second))


def replicated(values: Sequence[float | None], inputs: Sequence[bytes]) -> tuple[int, int] | None:
    """Return how many neighbours share a loss, of how many, if that cannot be chance.

    A loss of a whole batch written to each of its images shows as runs of one value; images that
    are the same input to the model may share theirs.

    Args:
        values: In the order of images; None where there is none.
        inputs: What tells the images apart, as their embeddings.
    """
    pairs = same = 0
    for place in range(1, len(values)):
        before, value = values[place - 1], values[place]
        if value is None or before is None or inputs[place - 1] == inputs[place]:
            continue
        pairs += 1
        same += value == before
    return (same, pairs) if same > max(1, 0.02 * pairs) else None


def constant(values: Sequence[float | None], inputs: Sequence[bytes]) -> str | None:
    """Return what is wrong with a loss column over images with objects: all 0, or one value."""
    known = [(value, key) for value, key in zip(values, inputs, strict=True) if value is not None]
    if not known:
        return None
    numbers = {value for value, _ in known}
    if numbers == {0.0}:
        return f"0 in all {len(known)} images with objects"
    different = len({key for _, key in known})
    if different >= 3 and len(numbers) == 1:
        return f"{known[0][0]:.6g} in all {len(known)} images with objects"
    return None


def sample(count: int, wanted: int, seed: int) -> np.ndarray:
    """Return up to `wanted` places of `count` at random, ascending, `[n]` int64."""
    generator = np.random.default_rng(seed)
    return np.sort(generator.permutation(count)[:wanted])
