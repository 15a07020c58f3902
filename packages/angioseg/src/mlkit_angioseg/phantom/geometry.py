"""C-arm projection: where a point of the patient falls on the detector.

Patient frame in millimetres, origin at the isocentre, patient supine: x to the patient's left,
y to the back, z to the head. Angles follow DICOM (0018,1510) and (0018,1511): primary + is LAO,
secondary + is CRA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FULL_SIZE = 512
FULL_PITCH_MM = 0.3


class BeamAxes(NamedTuple):
    """Three unit vectors `[3]` of one view; right x up = towards."""

    towards: NDArray[np.float64]
    right: NDArray[np.float64]
    up: NDArray[np.float64]


class Projection(NamedTuple):
    """Detector position of N points: column and row in pixels, magnification SID / depth."""

    column: NDArray[np.float64]
    row: NDArray[np.float64]
    magnification: NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """C-arm angles in degrees: primary + LAO / - RAO, secondary + CRA / - CAU."""

    primary_deg: float
    secondary_deg: float

    def __post_init__(self) -> None:
        if not abs(self.primary_deg) <= 180:
            raise ValueError(f"primary_deg must lie in -180..180, got {self.primary_deg}")
        if not abs(self.secondary_deg) <= 90:
            raise ValueError(f"secondary_deg must lie in -90..90, got {self.secondary_deg}")


def beam_axes(primary_deg: float, secondary_deg: float) -> BeamAxes:
    """Return the unit vectors towards the detector, image right and image up.

    Args:
        primary_deg: + LAO.
        secondary_deg: + CRA.
    """
    a, b = math.radians(primary_deg), math.radians(secondary_deg)
    sin_a, cos_a, sin_b, cos_b = math.sin(a), math.cos(a), math.sin(b), math.cos(b)
    return BeamAxes(
        np.array([sin_a * cos_b, -cos_a * cos_b, sin_b]),
        np.array([cos_a, sin_a, 0.0]),
        np.array([-sin_a * sin_b, cos_a * sin_b, cos_b]),
    )


@dataclass(frozen=True)
class CArm:
    """Source, isocentre and square detector of an angiography C-arm.

    Args:
        sod_mm: Source to isocentre.
        sid_mm: Source to detector.
        pitch_mm: Detector pixel.
        size: Detector side in pixels; pixel centres are whole numbers from 0 to `size - 1`.

    Raises:
        ValueError: If a length is not positive or the detector is nearer than the isocentre.
    """

    sod_mm: float = 750.0
    sid_mm: float = 1000.0
    pitch_mm: float = FULL_PITCH_MM
    size: int = FULL_SIZE

    def __post_init__(self) -> None:
        if not 0 < self.sod_mm < self.sid_mm:
            raise ValueError(f"need 0 < sod_mm < sid_mm, got {self.sod_mm} and {self.sid_mm}")
        if self.pitch_mm <= 0 or self.size < 1:
            raise ValueError(
                f"pitch_mm and size must be positive, got {self.pitch_mm} and {self.size}"
            )

    @classmethod
    def for_size(cls, size: int) -> CArm:
        """Return the default C-arm binned to `size` pixels over the same 153.6 mm field."""
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        return cls(pitch_mm=FULL_PITCH_MM * FULL_SIZE / size, size=size)

    @property
    def centre_px(self) -> float:
        """Column and row of the central beam, in pixels."""
        return (self.size - 1) / 2

    @property
    def mm_per_pixel(self) -> float:
        """Millimetres per pixel at the isocentre."""
        return self.pitch_mm * self.sod_mm / self.sid_mm

    def project(self, points_mm: ArrayLike, primary_deg: float, secondary_deg: float) -> Projection:
        """Return detector column, row and magnification of points.

        Args:
            points_mm: `[N, 3]` in the patient frame.
            primary_deg: + LAO.
            secondary_deg: + CRA.

        Raises:
            ValueError: If the shape is wrong or a point lies at or behind the source.
        """
        points = np.asarray(points_mm, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points_mm must be [N, 3], got {list(points.shape)}")
        axes = beam_axes(primary_deg, secondary_deg)
        depth = self.sod_mm + points @ axes.towards
        if (depth <= 0).any():
            raise ValueError(f"{int((depth <= 0).sum())} points lie at or behind the source")
        magnification = self.sid_mm / depth
        scale = magnification / self.pitch_mm
        return Projection(
            self.centre_px + scale * (points @ axes.right),
            self.centre_px - scale * (points @ axes.up),
            magnification,
        )

    def rays(self, view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the source position `[3]` in mm and unit ray directions `[H, W, 3]`."""
        axes = beam_axes(view.primary_deg, view.secondary_deg)
        offset = (np.arange(self.size) - self.centre_px) * self.pitch_mm
        across = offset[None, :, None] * axes.right
        rays = self.sid_mm * axes.towards + across - offset[:, None, None] * axes.up
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return -self.sod_mm * axes.towards, rays
