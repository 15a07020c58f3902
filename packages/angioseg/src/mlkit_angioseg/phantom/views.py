"""The views that angiographers use, and the bins into which angles fall."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_angioseg.phantom.geometry import View

if TYPE_CHECKING:
    from mlkit_angioseg.phantom.anatomy import Side

JITTER_DEG = 5.0

# Standard projections of teaching texts (Di Mario and Sutaria, Heart 2005), degrees, + LAO, + CRA.
CLINICAL_VIEWS: dict[Side, tuple[tuple[float, float], ...]] = {
    "left": (
        (-20.0, -22.0),  # RAO caudal
        (-30.0, 20.0),  # RAO cranial
        (0.0, 35.0),  # AP cranial
        (5.0, -28.0),  # AP caudal
        (38.0, 25.0),  # LAO cranial
        (45.0, -28.0),  # LAO caudal, the spider
    ),
    "right": (
        (35.0, -5.0),  # LAO
        (30.0, 22.0),  # LAO cranial
        (0.0, 28.0),  # AP cranial
        (-30.0, 5.0),  # RAO
        (-25.0, -15.0),  # RAO caudal
    ),
}


def clinical_views(side: Side, count: int, rng: np.random.Generator) -> list[View]:
    """Return `count` jittered standard views, all different while the list lasts.

    Args:
        side: Of the tree.
        count: At least 1.
        rng: Draws the order and the jitter, normal with 5 degrees.
    """
    table = CLINICAL_VIEWS[side]
    rounds = -(-count // len(table))
    order = np.concatenate([rng.permutation(len(table)) for _ in range(rounds)])[:count]
    jitter = np.clip(rng.normal(0, JITTER_DEG, (count, 2)), -12, 12)
    return [
        View(round(table[i][0] + float(dp), 1), round(table[i][1] + float(ds), 1))
        for i, (dp, ds) in zip(order, jitter, strict=True)
    ]
