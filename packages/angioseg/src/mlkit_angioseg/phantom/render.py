"""Angiogram frames and cines of a coronary tree, by Beer-Lambert: I = I0 exp(-mu * path)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mlkit_angioseg.phantom.geometry import beam_axes
from mlkit_angioseg.phantom.scene import catheter, collimator, ecg_wire, scene_attenuation
from mlkit_angioseg.phantom.tubes import Tube, project_tubes, rasterise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlkit_angioseg.phantom.geometry import CArm, View
    from mlkit_angioseg.phantom.tree import CoronaryTree
    from mlkit_angioseg.phantom.tubes import Slices

MEAN_GREY, BLADE_GREY = 118.0, 62.0  # of 255, as in real frames after the vendor's window
FRONT_MM, TAIL_MM = 12.0, 70.0  # length over which contrast fills and washes out
ALL_FILLED = (1e9, -1e9)
WIRE_MU_PER_MM = 0.09
REACH_MM = 230.0  # no artery ends farther from the ostium


@dataclass(frozen=True)
class Imaging:
    """How the X-ray chain forms the picture.

    Args:
        iodine_mu_per_mm: Attenuation of full contrast, as it shows after the vendor's window.
        catheter_mu_per_mm: Attenuation of the catheter.
        photons: Quanta per pixel at mean exposure; noise is their square root.
        scatter: Fraction of the signal that is scatter, 0 to below 1.
        blur_px: Standard deviation of the detector's blur.
        min_width_px: Least drawn width of a vessel, in image and mask.
        wire_chance: Probability that an ECG lead crosses the view.
        heart_rate_hz: Beats per second.
        frame_rate_hz: Frames per second.
        bits: 8 gives uint8, 12 gives uint16 up to 4095.
    """

    iodine_mu_per_mm: float = 0.14
    catheter_mu_per_mm: float = 0.10
    photons: float = 3000.0
    scatter: float = 0.2
    blur_px: float = 0.6
    min_width_px: float = 1.5
    wire_chance: float = 0.3
    heart_rate_hz: float = 1.2
    frame_rate_hz: float = 15.0
    bits: Literal[8, 12] = 8

    def __post_init__(self) -> None:
        if self.bits not in (8, 12):
            raise ValueError(f"bits must be 8 or 12, got {self.bits}")
        if not 0 <= self.scatter < 1:
            raise ValueError(f"scatter must lie in 0..1, got {self.scatter}")
        if min(self.photons, self.min_width_px, self.frame_rate_hz) <= 0:
            raise ValueError("photons, min_width_px and frame_rate_hz must be positive")


DEFAULT_IMAGING = Imaging()


@dataclass(frozen=True)
class Frame:
    """One angiogram: image `[H, W]` uint8 or uint16, vessels dark, and mask `[H, W]` bool."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Cine:
    """One run of contrast.

    Args:
        images: `[T, H, W]`, uint8 or uint16, vessels dark.
        masks: `[T, H, W]`, bool, vessels that hold contrast in that frame.
        frame_index: A frame in which the whole tree is filled.
    """

    images: NDArray[np.uint8] | NDArray[np.uint16]
    masks: NDArray[np.bool_]
    frame_index: int


class Acquisition:
    """One run: a tree before one C-arm view, with its scene; renders any frame of it.

    The table is moved so that the tree comes near the middle of the field, as in practice.

    Args:
        tree: Patient.
        carm: Geometry; `carm.size` is the side of the image.
        view: C-arm angles.
        seed: Of background, noise, catheter, collimator and heart phase.
        imaging: X-ray chain.
    """

    def __init__(
        self,
        tree: CoronaryTree,
        carm: CArm,
        view: View,
        seed: int,
        imaging: Imaging = DEFAULT_IMAGING,
    ) -> None:
        self.tree, self.carm, self.view, self.imaging = tree, carm, view, imaging
        self.rng = np.random.default_rng(seed)
        self.table_mm = _centring(tree, view) + self.rng.normal(0, 5, 3)
        self.scene = scene_attenuation(carm, view, tree.heart, self.table_mm, self.rng)
        self.open_weight, self.open_mask = collimator(carm.size, self.rng)
        self.phase = self.rng.random()
        self.catheter_seed = int(self.rng.integers(2**31))
        if self.rng.random() < imaging.wire_chance:
            wire = self._slices([ecg_wire(self.rng)])
            self.scene += WIRE_MU_PER_MM * rasterise(wire, carm.size)[0]

    def frame(self, time_s: float = 0.0, contrast: tuple[float, float] = ALL_FILLED) -> Frame:
        """Return the frame at one time.

        Args:
            time_s: Since the start of the run; sets the phase of the heart.
            contrast: How far from the ostium, in mm, contrast has come and clear blood follows.
        """
        size, imaging = self.carm.size, self.imaging
        vessels = self.vessels(time_s)
        slices = self._slices(vessels)
        path, mask = rasterise(slices, size, _fill(slices.distance_mm, *contrast))
        tip = vessels[0].points_mm
        tube = catheter(tip[0], tip[8], np.random.default_rng(self.catheter_seed))
        shaft, _ = rasterise(self._slices([tube]), size)
        attenuation = self.scene + np.float32(imaging.iodine_mu_per_mm) * path
        attenuation += np.float32(imaging.catheter_mu_per_mm) * shaft
        return Frame(self._expose(attenuation.astype(np.float32)), mask & self.open_mask)

    def vessels(self, time_s: float = 0.0) -> list[Tube]:
        """Return the arteries in the order of `tree.branches`, moved by the heartbeat."""
        phase = (self.phase + time_s * self.imaging.heart_rate_hz) % 1
        beat = self.tree.heart.beat
        return [
            Tube(beat(b.points_mm, phase), b.diameters_mm, b.distance_mm)
            for b in self.tree.branches
        ]

    def _slices(self, tubes: Sequence[Tube]) -> Slices:
        moved = [Tube(t.points_mm + self.table_mm, t.diameters_mm, t.distance_mm) for t in tubes]
        return project_tubes(moved, self.carm, self.view, self.imaging.min_width_px)

    def _expose(self, attenuation: NDArray[np.float32]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        imaging, size = self.imaging, self.carm.size
        signal = np.exp(-attenuation)
        scattered = _blur_widely(signal, size)
        signal = (1 - imaging.scatter) * signal + imaging.scatter * scattered
        noise = self.rng.standard_normal((size, size), dtype=np.float32)
        # Poisson counts of thousands are normal with the mean as variance.
        signal += noise * np.sqrt(signal / imaging.photons)
        signal = gaussian_filter(signal, imaging.blur_px, truncate=3)
        grey = BLADE_GREY * (0.8 + 0.2 * signal)
        grey += (MEAN_GREY * signal - grey) * self.open_weight
        if imaging.bits == 8:
            return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.clip(np.rint(grey * (4095 / 255)), 0, 4095).astype(np.uint16)


def _centring(tree: CoronaryTree, view: View) -> NDArray[np.float64]:
    """Table shift `[3]` in mm, across the beam, that centres most of the tree."""
    axes = beam_axes(view.primary_deg, view.secondary_deg)
    points = np.concatenate([branch.points_mm for branch in tree.branches])
    shift = np.zeros(3)
    for axis in (axes.right, axes.up):
        low, high = np.percentile(points @ axis, [2, 98])
        shift -= 0.85 * (low + high) / 2 * axis
    return shift


def _fill(distance_mm: NDArray[np.float64], front_mm: float, tail_mm: float) -> NDArray[np.float64]:
    """Contrast in each slice, 0 to 1: in behind the front, out behind the tail."""
    filled = np.clip((front_mm - distance_mm) / FRONT_MM, 0, 1)
    washed = np.clip((tail_mm - distance_mm) / TAIL_MM, 0, 1)
    return filled * (1 - 0.85 * washed)


def _blur_widely(signal: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Scatter spreads over centimetres: blur a thumbnail."""
    small = Image.fromarray(signal).resize((32, 32), Image.Resampling.BOX)
    blurred = gaussian_filter(np.asarray(small), 2.5)
    return np.asarray(Image.fromarray(blurred).resize((size, size), Image.Resampling.BILINEAR))


def render_frame(
    tree: CoronaryTree, carm: CArm, view: View, seed: int, imaging: Imaging = DEFAULT_IMAGING
) -> Frame:
    """Return one frame with the whole tree filled.

    Args:
        tree: Patient.
        carm: Geometry; `carm.size` is the side of the image.
        view: C-arm angles.
        seed: Of background, noise, catheter, collimator and heart phase.
        imaging: X-ray chain.
    """
    return Acquisition(tree, carm, view, seed, imaging).frame()


def render_cine(acquisition: Acquisition, frames: int = 12) -> Cine:
    """Return a run: empty, filling, filled from 45 % to 70 % of the time, washing out.

    Args:
        acquisition: Tree, view and X-ray chain.
        frames: Number of frames, at least 4.

    Raises:
        ValueError: If there are too few frames.
    """
    if frames < 4:
        raise ValueError(f"a cine needs at least 4 frames, got {frames}")
    made = []
    for index in range(frames):
        part = (index + 0.5) / frames
        front = REACH_MM * (part - 0.12) / (0.45 - 0.12)
        tail = REACH_MM * (part - 0.70) / (0.45 - 0.12)
        made.append(acquisition.frame(index / acquisition.imaging.frame_rate_hz, (front, tail)))
    return Cine(
        np.stack([frame.image for frame in made]),
        np.stack([frame.mask for frame in made]),
        int(0.6 * frames),
    )
