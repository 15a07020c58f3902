"""A detector's raw output: what its head says before decoding, and the maps that enter it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class RawOutput:
    """Raw output of one batch.

    Anchors go level by level, fine to coarse, each level row by row; the centre of an anchor is
    `(x + 0.5, y + 0.5) * stride`, input pixels.

    Args:
        boxes: `[B, 4 * reg_max, A]`, logits of the four sides' distances (left, top, right,
            bottom; `reg_max` bins each), in strides.
        scores: `[B, nc, A]`, logits.
        coefs: `[B, M, A]`, mask coefficients; None for a detector without masks.
        protos: `[B, M, S / 4, S / 4]`, mask prototypes; None likewise.
        maps: Level (p3, p4, p5) to `[B, C, S / stride, S / stride]`.
    """

    boxes: Tensor
    scores: Tensor
    coefs: Tensor | None
    protos: Tensor | None
    maps: Mapping[str, Tensor]

    def row(self, index: int) -> RawOutput:
        """Return one image's output, still with a batch dimension of 1."""
        return self._each(lambda values: values[index : index + 1])

    def cpu(self) -> RawOutput:
        """Return the output in main memory."""
        return self._each(lambda values: values.cpu())

    def to(self, device: str) -> RawOutput:
        """Return the output on a device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> RawOutput:
        return RawOutput(
            boxes=change(self.boxes),
            scores=change(self.scores),
            coefs=None if self.coefs is None else change(self.coefs),
            protos=None if self.protos is None else change(self.protos),
            maps={level: change(values) for level, values in self.maps.items()},
        )


def join_rows(rows: Sequence[RawOutput]) -> RawOutput:
    """Return the output of a batch from those of its images, at least one."""
    if len(rows) == 1:
        return rows[0]
    first = rows[0]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(row, name) for row in rows])

    return RawOutput(
        boxes=joined("boxes"),
        scores=joined("scores"),
        coefs=None if first.coefs is None else joined("coefs"),
        protos=None if first.protos is None else joined("protos"),
        maps={level: torch.cat([row.maps[level] for row in rows]) for level in first.maps},
    )
