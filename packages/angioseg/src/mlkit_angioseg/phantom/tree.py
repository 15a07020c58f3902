"""A coronary tree in three dimensions: its arteries, and a narrowing in one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlkit_angioseg.phantom.anatomy import Side
    from mlkit_angioseg.phantom.heart import Heart

STEP_MM = 0.5


@dataclass(frozen=True)
class Branch:
    """One artery from its origin to its end.

    Args:
        name: Such as `"LAD"`; twigs of a side branch are `"D1.1"`.
        parent: Name of the artery that it leaves, none at the ostium.
        origin: Index in the parent's points at which it leaves.
        points_mm: `[N, 3]` in the patient frame at end-diastole, `STEP_MM` apart.
        diameters_mm: `[N]`.
        distance_mm: `[N]`, way along the arteries from the ostium.
    """

    name: str
    parent: str | None
    origin: int
    points_mm: NDArray[np.float64]
    diameters_mm: NDArray[np.float64]
    distance_mm: NDArray[np.float64]


@dataclass(frozen=True)
class CoronaryTree:
    """Arteries of one side of one patient, trunks before the branches that leave them."""

    side: Side
    heart: Heart
    branches: tuple[Branch, ...]

    @property
    def ostium_mm(self) -> NDArray[np.float64]:
        """Point `[3]` where the tree leaves the aorta."""
        return self.branches[0].points_mm[0]

    def branch(self, name: str) -> Branch:
        """Return the branch called `name`, or raise ValueError listing the names."""
        for branch in self.branches:
            if branch.name == name:
                return branch
        known = ", ".join(branch.name for branch in self.branches)
        raise ValueError(f"no branch {name!r} in this tree; it has {known}")


@dataclass(frozen=True)
class Stenosis:
    """A narrowing with a smooth cosine profile.

    Args:
        branch: Name of the artery.
        position: Centre, as a fraction of the artery's length.
        percent: Loss of diameter at the centre, above 0 and below 100.
        length_mm: From shoulder to shoulder.
    """

    branch: str
    position: float = 0.4
    percent: float = 70.0
    length_mm: float = 12.0

    def __post_init__(self) -> None:
        if not (0 <= self.position <= 1 and 0 < self.percent < 100 and self.length_mm > 0):
            raise ValueError(
                f"need position 0..1, percent between 0 and 100 and a positive length, got {self}"
            )


def narrow(tree: CoronaryTree, stenosis: Stenosis) -> CoronaryTree:
    """Return a copy of the tree with one branch narrowed; ValueError if it has no such branch."""
    branch = tree.branch(stenosis.branch)
    along = np.arange(len(branch.diameters_mm)) * STEP_MM
    offset = (along - stenosis.position * along[-1]) / stenosis.length_mm
    dip = np.where(np.abs(offset) < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * offset), 0)
    diameters = branch.diameters_mm * (1 - stenosis.percent / 100 * dip)
    changed = replace(branch, diameters_mm=diameters)
    branches = tuple(changed if b is branch else b for b in tree.branches)
    return replace(tree, branches=branches)
