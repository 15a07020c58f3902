"""Which found boxes are right: COCO's greedy assignment within one image and class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def box_iou(a: Floats, b: Floats) -> Floats:
    """Return intersection over union `[M, P]` of boxes `[M, 4]` and `[P, 4]`, xyxy."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def hits(found: Floats, true: Floats, iou: float = 0.5) -> NDArray[np.bool_]:
    """Return for each found box whether it is a hit: the first to reach a true box of its own.

    Found boxes take turns, the best first; each takes the free true box that it overlaps most, if
    by at least `iou`. A second box on the same object is a false alarm.

    Args:
        found: `[P, 4]`, by falling score.
        true: `[M, 4]`.
        iou: Least overlap.
    """
    overlap = box_iou(found, true)
    right = np.zeros(len(found), bool)
    for row in range(len(found) if len(true) else 0):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= iou:
            right[row] = True
            overlap[:, best] = -1.0
    return right
