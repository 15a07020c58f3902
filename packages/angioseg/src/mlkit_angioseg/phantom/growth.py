"""Random coronary trees.

Trunks follow the plans of `anatomy`; side branches walk over the heart surface. Diameters obey
Murray's law at every division: the cube of the parent equals the sum of the daughters' cubes
(Murray, "The physiological principle of minimum work", PNAS 1926).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from mlkit_angioseg.phantom.anatomy import (
    OSTIUM_DIAMETER_MM,
    PLANS,
    SIDES,
    Side,
    SidePlan,
    TrunkPlan,
)
from mlkit_angioseg.phantom.heart import Heart, random_heart
from mlkit_angioseg.phantom.tree import STEP_MM, Branch, CoronaryTree, Stenosis, narrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Joint: TypeAlias = tuple[Branch, int]
Waypoint: TypeAlias = tuple[float, float, float]

MM_PER_DEG = 0.66  # on the heart surface, for walks measured in degrees
SMALLEST_MM = 0.7
TAPER_PER_MM = 0.0022


def daughter_diameter(parent_mm: float, sibling_mm: float) -> float:
    """Return the second daughter's diameter in mm by Murray's law.

    Raises:
        ValueError: If the sibling is not thinner than the parent.
    """
    if not 0 < sibling_mm < parent_mm:
        raise ValueError(f"sibling {sibling_mm} mm must be thinner than the parent {parent_mm} mm")
    return float((parent_mm**3 - sibling_mm**3) ** (1 / 3))


def grow_tree(side: Side, seed: int, stenosis: Stenosis | None = None) -> CoronaryTree:
    """Return a random coronary tree; equal arguments give an equal tree.

    Args:
        side: `"left"` or `"right"`.
        seed: Of the patient; every seed gives another heart, course, calibre and set of branches.
        stenosis: Narrowing to put in.

    Raises:
        ValueError: If the side is unknown or the stenosed branch does not exist.
    """
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(SIDES)}, got {side!r}")
    grower = _Grower(random_heart(rng := np.random.default_rng(seed)), rng)
    grower.grow(PLANS[side], rng.uniform(*OSTIUM_DIAMETER_MM[side]))
    tree = CoronaryTree(side, grower.heart, tuple(grower.branches))
    return tree if stenosis is None else narrow(tree, stenosis)


class _Grower:
    """Adds branches one by one; a course is `[N, 3]` of azimuth, latitude, depth."""

    def __init__(self, heart: Heart, rng: np.random.Generator) -> None:
        self.heart, self.rng = heart, rng
        self.branches: list[Branch] = []
        self.feeding: set[str | None] = set()
        self.tortuosity = rng.lognormal(0, 0.35)

    def grow(self, plans: Sequence[TrunkPlan], ostium_mm: float) -> None:
        plans = [p for p in plans if p.chance >= 1 or self.rng.random() < p.chance]
        self.feeding = {plan.parent for plan in plans}
        shifts: dict[Waypoint, NDArray[np.float64]] = {}
        for plan in plans:
            parent = next((b for b in self.branches if b.name == plan.parent), None)
            diameter, joint = ostium_mm, None
            if parent is not None:
                whole = sum(p.share for p in plans if p.parent == plan.parent)
                diameter = parent.diameters_mm[-1] * (plan.share / whole) ** (1 / 3)
                joint = (parent, len(parent.points_mm) - 1)
            self._add(plan, joint, self._trunk_course(plan, shifts), diameter)

    def _trunk_course(
        self, plan: TrunkPlan, shifts: dict[Waypoint, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Waypoints that two trunks share shift alike, so that the trunks stay joined."""
        knots = []
        for waypoint in plan.waypoints:
            if waypoint not in shifts:
                shifts[waypoint] = self.rng.normal(0, (4.0, 2.5, 0.01))
            knots.append(np.array(waypoint) + shifts[waypoint])
        spline = make_interp_spline(np.linspace(0, 1, len(knots)), knots, k=min(3, len(knots) - 1))
        return spline(np.linspace(0, 1, 400))

    def _walk(
        self, start: NDArray[np.float64], plan: SidePlan, length_mm: float
    ) -> NDArray[np.float64]:
        """A branch bends slowly at random and drifts towards the apex, as surface arteries do."""
        steps = max(8, round(length_mm / STEP_MM))
        wander = gaussian_filter1d(self.rng.normal(0, 1, steps), 12, mode="nearest")
        wander *= 14 * self.tortuosity / max(float(wander.std()), 1e-6)
        drift = np.linspace(0, 1, steps) * (85 - plan.heading_deg) * 0.45
        if plan.heading_deg < -35:  # atrial branches stay away from the apex
            drift[:] = 0
        heading = np.radians(plan.heading_deg + self.rng.normal(0, 7) + wander + drift)
        stride = STEP_MM / MM_PER_DEG
        latitude = np.clip(start[1] + np.cumsum(stride * np.sin(heading)), -60, 84)
        across = stride * np.cos(heading) / np.maximum(np.cos(np.radians(latitude)), 0.25)
        depth = np.linspace(start[2], plan.end_depth * min(start[2], 1.02), steps)
        course = np.stack([start[0] + np.cumsum(across), latitude, depth], axis=1)
        return np.concatenate([start[None], course])

    def _add(
        self,
        plan: TrunkPlan | SidePlan,
        joint: Joint | None,
        course: NDArray[np.float64],
        diameter_mm: float,
    ) -> None:
        points = self._wind(_even(self.heart.to_patient(course)), diameter_mm)
        start_mm = 0.0
        if joint is not None:
            parent, index = joint
            points += parent.points_mm[index] - points[0]
            start_mm = parent.distance_mm[index]
        origins = self._origins(plan, len(points))
        along = np.arange(len(points), dtype=np.float64) * STEP_MM
        diameters, daughters = self._calibre(diameter_mm, along, origins)
        if plan.name not in self.feeding:
            diameters = _thin_out(diameters, along)
        parent_name, index = (None, 0) if joint is None else (joint[0].name, joint[1])
        branch = Branch(plan.name, parent_name, index, points, diameters, start_mm + along)
        self.branches.append(branch)
        fractions = np.linspace(0, 1, len(course))
        for (side, at), daughter in zip(origins, daughters, strict=True):
            start = np.array([np.interp(at / len(points), fractions, c) for c in course.T])
            length = side.length_mm * self.rng.uniform(0.75, 1.2)
            self._add(side, (branch, at), self._walk(start, side, length), daughter)

    def _origins(self, plan: TrunkPlan | SidePlan, points: int) -> list[tuple[SidePlan, int]]:
        """Branches that this patient has, with the index of their origin, in order."""
        sides = plan.sides if isinstance(plan, TrunkPlan) else self._twigs(plan)
        found = []
        for side in sides:
            if side.chance >= 1 or self.rng.random() < side.chance:
                at = np.clip(side.start + self.rng.normal(0, 0.03), 0.04, 0.94)
                found.append((side, int(at * points)))
        return sorted(found, key=lambda pair: pair[1])

    def _twigs(self, plan: SidePlan) -> list[SidePlan]:
        """Up to three twigs of a long surface branch; twigs have none themselves."""
        if "." in plan.name or plan.length_mm < 24 or plan.end_depth < 1:
            return []
        twigs = []
        for i in range(self.rng.integers(1, 4)):
            heading = plan.heading_deg + self.rng.choice([-1, 1]) * self.rng.uniform(22, 48)
            at, ratio = self.rng.uniform(0.25, 0.75), self.rng.uniform(0.5, 0.72)
            length = plan.length_mm * (1 - at) * self.rng.uniform(0.5, 0.9)
            twigs.append(SidePlan(f"{plan.name}.{i + 1}", at, heading, length, ratio))
        return twigs

    def _calibre(
        self,
        diameter_mm: float,
        along_mm: NDArray[np.float64],
        origins: Sequence[tuple[SidePlan, int]],
    ) -> tuple[NDArray[np.float64], list[float]]:
        """Taper exponentially, and by Murray's law at each origin."""
        diameters = diameter_mm * np.exp(-TAPER_PER_MM * along_mm)
        daughters = []
        for side, at in origins:
            before = float(diameters[at])
            ratio = np.clip(side.ratio * self.rng.uniform(0.88, 1.12), 0.25, 0.92)
            daughters.append(float(max(ratio * before, min(SMALLEST_MM, 0.9 * before))))
            diameters[at:] *= daughter_diameter(before, daughters[-1]) / before
        return diameters, daughters

    def _wind(self, points: NDArray[np.float64], diameter_mm: float) -> NDArray[np.float64]:
        """Thin arteries wind more; the origin stays where it is."""
        noise = gaussian_filter1d(self.rng.normal(0, 1, points.shape), 6, axis=0, mode="reflect")
        noise *= 0.5 * self.tortuosity * (2.2 / diameter_mm) ** 0.7 / max(noise.std(), 1e-6)
        along = np.arange(len(points), dtype=np.float64) * STEP_MM
        return points + noise * np.minimum(1, along / 8)[:, None]


def _thin_out(diameters: NDArray[np.float64], along_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last two fifths of a terminal artery lose twigs too small to draw."""
    distal = np.clip((along_mm / along_mm[-1] - 0.6) / 0.4, 0, 1)
    thinned = diameters * (1 - 0.45 * distal)
    return np.maximum(thinned, min(SMALLEST_MM, diameters[0]))


def _even(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resample a polyline `[M, 3]` at `STEP_MM`."""
    along = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, along[-1], max(4, round(along[-1] / STEP_MM)))
    return np.stack([np.interp(wanted, along, axis) for axis in points.T], axis=1)
