"""`--shard k/n`: which part of the work a job of a job array takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlkit_core.errors import InputError


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def takes(self, place: int) -> bool:
        """Return whether the piece of work at this place of the whole is this part's.

        It hangs on the place alone, not on what is still to do: a resumed job takes the same.
        """
        return place % self.count == self.number - 1


def parse_shard(text: str | None) -> Shard | None:
    """Return the shard that `k/n` names; None where nothing is asked for.

    Raises:
        InputError: The text is not `k/n` with 1 <= k <= n.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--shard: expected k/n with 1 <= k <= n, got {text!r}", hint="as 1/8")
    return Shard(number, count)
