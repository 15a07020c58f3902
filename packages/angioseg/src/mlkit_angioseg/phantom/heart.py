"""The heart surface on which coronary arteries run, and how it beats.

A point on the heart is (azimuth, latitude, depth): azimuth in degrees round the long axis, 0 in
front and 90 at the upper left; latitude in degrees, 90 at the apex and about -23 in the groove
between atria and ventricles; depth 1 on the surface and 0 on the long axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONG_AXIS = (0.65, -0.55, -0.52)  # base to apex: left, forwards, down
LONG_SHORTENING, RADIAL_SHORTENING, TWIST_DEG, DESCENT_MM = 0.08, 0.10, 7.0, 3.0


@dataclass(frozen=True)
class Heart:
    """Ellipsoid of one patient's heart.

    Args:
        centre_mm: `[3]` in the patient frame.
        axes: `[3, 3]`; rows are unit vectors to the apex, to the front and to the upper left.
        radii_mm: `[3]`, in the order of `axes`.
    """

    centre_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    radii_mm: NDArray[np.float64]

    def to_patient(self, course: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points `[N, 3]` in mm for rows of azimuth deg, latitude deg, depth."""
        azimuth, latitude = np.radians(course[:, 0]), np.radians(course[:, 1])
        radial = np.cos(latitude) * course[:, 2]
        local = np.stack(
            [np.sin(latitude), radial * np.cos(azimuth), radial * np.sin(azimuth)], axis=1
        )
        return self.centre_mm + (local * self.radii_mm) @ self.axes

    def beat(self, points_mm: NDArray[np.float64], phase: float) -> NDArray[np.float64]:
        """Return points `[N, 3]` moved by the heartbeat.

        The motion shortens the long axis, narrows the ventricle, twists the apex against the
        base and pulls the base down. The amounts are plausible, not measured.

        Args:
            points_mm: `[N, 3]` at end-diastole.
            phase: 0 or 1 is end-diastole, 0.5 end-systole.
        """
        squeeze = 0.5 * (1 - math.cos(2 * math.pi * phase))
        local = (points_mm - self.centre_mm) @ self.axes.T
        height = local[:, 0] / self.radii_mm[0]
        twist = np.radians(TWIST_DEG * squeeze * height)
        shrink = 1 - RADIAL_SHORTENING * squeeze
        front, left = local[:, 1] * shrink, local[:, 2] * shrink
        moved = np.stack(
            [
                self.radii_mm[0] * (height + (1 - height) * LONG_SHORTENING * squeeze),
                np.cos(twist) * front - np.sin(twist) * left,
                np.sin(twist) * front + np.cos(twist) * left,
            ],
            axis=1,
        )
        return self.centre_mm + moved @ self.axes - np.array([0, 0, DESCENT_MM * squeeze])


def random_heart(rng: np.random.Generator) -> Heart:
    """Return a heart of random size, position and tilt, near the isocentre."""
    apex = np.array(LONG_AXIS) + rng.normal(0, 0.05, 3)
    apex /= np.linalg.norm(apex)
    front = np.array([0.0, -1.0, 0.0])
    front -= (front @ apex) * apex
    front /= np.linalg.norm(front)
    radii = np.array([53.0, 36.0, 39.0]) * rng.uniform(0.92, 1.08) * rng.uniform(0.96, 1.04, 3)
    centre = rng.normal(0, 3.0, 3)
    return Heart(centre, np.stack([apex, front, np.cross(front, apex)]), radii)
