"""Plans of the left and right coronary tree: which arteries run where on the heart.

Courses follow the usual right-dominant anatomy. Lengths and diameters are typical adult figures
(Dodge et al., "Lumen diameter of normal human coronary arteries", Circulation 1992), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")


@dataclass(frozen=True)
class SidePlan:
    """A branch that leaves a trunk and walks over the heart.

    Args:
        name: Name in the tree.
        start: Fraction of the trunk's length at which it leaves.
        heading_deg: 0 towards growing azimuth, 90 towards the apex.
        length_mm: Mean length.
        ratio: Diameter relative to the trunk at the origin.
        chance: Probability that a patient has it.
        end_depth: Depth at its end; 1 stays on the surface.
    """

    name: str
    start: float
    heading_deg: float
    length_mm: float
    ratio: float
    chance: float = 1.0
    end_depth: float = 1.0


@dataclass(frozen=True)
class TrunkPlan:
    """A main artery along fixed waypoints.

    Args:
        name: Name in the tree.
        parent: Trunk at whose end it begins; none for the one at the ostium.
        waypoints: Rows of azimuth deg, latitude deg and depth.
        share: Share of the parent's flow, by Murray's law of the diameter cubed.
        sides: Branches along it.
        chance: Probability that a patient has it.
    """

    name: str
    parent: str | None
    waypoints: tuple[tuple[float, float, float], ...]
    share: float = 1.0
    sides: tuple[SidePlan, ...] = ()
    chance: float = 1.0


LEFT_SPLIT, CRUX = (55.0, -22.0, 1.02), (-125.0, -22.0, 1.02)

LEFT = (
    TrunkPlan("LM", None, ((63.0, -28.0, 0.82), (59.0, -25.0, 0.93), LEFT_SPLIT)),
    TrunkPlan(
        "LAD",
        "LM",
        (LEFT_SPLIT, (52.0, 2, 1.03), (47.0, 30, 1.02), (42.0, 57, 1.02), (36.0, 80, 1.02)),
        share=0.53,
        sides=(
            SidePlan("S1", 0.14, 120, 24, 0.36, 0.95, 0.50),
            SidePlan("D1", 0.20, 32, 62, 0.62),
            SidePlan("S2", 0.27, 115, 22, 0.34, 0.9, 0.50),
            SidePlan("D2", 0.40, 38, 48, 0.58, 0.9),
            SidePlan("S3", 0.42, 115, 18, 0.34, 0.8, 0.55),
            SidePlan("RVL", 0.50, 150, 26, 0.40, 0.5),
            SidePlan("S4", 0.56, 115, 15, 0.36, 0.6, 0.60),
            SidePlan("D3", 0.62, 40, 30, 0.56, 0.6),
        ),
    ),
    TrunkPlan(
        "LCx",
        "LM",
        (LEFT_SPLIT, (80.0, -25, 1.03), (115.0, -25, 1.03), (150.0, -24, 1.02), (188, -21, 1.02)),
        share=0.38,
        sides=(
            SidePlan("LA", 0.20, -70, 28, 0.40, 0.6),
            SidePlan("OM1", 0.32, 62, 66, 0.72),
            SidePlan("OM2", 0.58, 72, 54, 0.68, 0.9),
            SidePlan("OM3", 0.82, 80, 40, 0.66, 0.7),
        ),
    ),
    TrunkPlan(
        "RI",
        "LM",
        (LEFT_SPLIT, (78.0, -8, 1.03), (92.0, 14, 1.02), (100.0, 38, 1.02)),
        share=0.09,
        chance=0.35,
    ),
)

RIGHT = (
    TrunkPlan(
        "RCA",
        None,
        (
            (12.0, -34, 0.72),
            (0.0, -27, 0.98),
            (-38.0, -24, 1.05),
            (-78.0, -23, 1.04),
            (-106.0, -22, 1.03),
            CRUX,
        ),
        sides=(
            SidePlan("CB", 0.12, 50, 34, 0.38, 0.9),
            SidePlan("SN", 0.17, -125, 32, 0.36, 0.8),
            SidePlan("RV1", 0.34, 78, 44, 0.42, 0.9),
            SidePlan("AM", 0.56, 95, 58, 0.52),
            SidePlan("RV2", 0.76, 88, 36, 0.40, 0.6),
        ),
    ),
    TrunkPlan(
        "PDA",
        "RCA",
        (CRUX, (-126.0, 0.0, 1.03), (-122.0, 26.0, 1.02), (-116.0, 54.0, 1.02)),
        share=0.46,
        sides=(
            SidePlan("PS1", 0.30, 110, 16, 0.40, 0.8, 0.6),
            SidePlan("PS2", 0.55, 110, 14, 0.42, 0.6, 0.6),
        ),
    ),
    TrunkPlan(
        "PLV",
        "RCA",
        (CRUX, (-138.0, -25.0, 1.03), (-156.0, -22.0, 1.02), (-178.0, -14.0, 1.02)),
        share=0.54,
        sides=(
            SidePlan("PL1", 0.30, 98, 48, 0.62),
            SidePlan("PL2", 0.58, 104, 44, 0.64, 0.9),
            SidePlan("PL3", 0.82, 110, 36, 0.66, 0.6),
        ),
    ),
)

PLANS: dict[Side, tuple[TrunkPlan, ...]] = {"left": LEFT, "right": RIGHT}
OSTIUM_DIAMETER_MM: dict[Side, tuple[float, float]] = {"left": (3.7, 4.5), "right": (3.3, 4.1)}
