"""What stands behind the vessels: lungs, heart, liver, spine, ribs, wires, and the collimator.

Organs are ellipsoids crossed by the true rays of the C-arm, so the background turns with the
view: the spine moves to the right in LAO, the diaphragm climbs in cranial views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mlkit_angioseg.phantom.geometry import CArm
from mlkit_angioseg.phantom.tubes import Tube, project_tubes, rasterise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlkit_angioseg.phantom.geometry import View
    from mlkit_angioseg.phantom.heart import Heart

COARSE = 128  # organs have soft borders: their shadow is computed on this grid
RIB_MU_PER_MM = 0.0065

# Centre mm, half axes mm, attenuation per mm against the chest's mean.
ORGANS = (
    ((-82.0, 5.0, 30.0), (56.0, 80.0, 100.0), -0.0026),  # right lung
    ((88.0, 10.0, 28.0), (52.0, 80.0, 100.0), -0.0026),  # left lung
    ((-58.0, 0.0, -138.0), (98.0, 92.0, 88.0), 0.0026),  # liver under the right dome
    ((72.0, 5.0, -150.0), (88.0, 85.0, 84.0), 0.0022),  # left dome
    ((0.0, 72.0, 0.0), (16.0, 14.0, 260.0), 0.0050),  # spinal column
    ((20.0, 52.0, 0.0), (12.0, 12.0, 200.0), 0.0022),  # descending aorta
)


def scene_attenuation(
    carm: CArm,
    view: View,
    heart: Heart,
    table_mm: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the attenuation `[H, W]` of everything but contrast, in nepers, median 0.

    Args:
        carm: Geometry of the image.
        view: C-arm angles.
        heart: Its shadow is part of the scene.
        table_mm: `[3]`, how far the table has moved the patient.
        rng: Draws the patient's build and the fine structure.
    """
    coarse = CArm(carm.sod_mm, carm.sid_mm, carm.pitch_mm * carm.size / COARSE, COARSE)
    source, rays = coarse.rays(view)
    source = source - table_mm
    shadow = np.zeros((COARSE, COARSE))
    shift = rng.normal(0, (4, 4, 12))
    for centre, half, mu in ORGANS:
        moved = np.array(centre) + (shift if abs(centre[2]) > 100 else 0)
        shadow += mu * rng.uniform(0.7, 1.3) * chord_mm(source, rays, moved, np.diag(half))
    axes = heart.axes * heart.radii_mm[:, None] * 1.08
    beating = gaussian_filter(chord_mm(source, rays, heart.centre_mm, axes), 2.5)
    shadow += 0.0022 * rng.uniform(0.7, 1.3) * beating
    shadow += _vertebrae(source, rays, rng) + _ribs(coarse, view, table_mm, rng)
    shadow += texture(COARSE, rng)
    shadow -= np.median(shadow)
    image = Image.fromarray(shadow.astype(np.float32))
    return np.asarray(image.resize((carm.size, carm.size), Image.Resampling.BICUBIC)).copy()


def chord_mm(
    source: NDArray[np.float64],
    rays: NDArray[np.float64],
    centre_mm: NDArray[np.float64],
    axes_mm: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the length in mm of each ray inside an ellipsoid.

    Args:
        source: `[3]`, mm.
        rays: `[..., 3]`, unit vectors.
        centre_mm: `[3]`.
        axes_mm: `[3, 3]`; rows are the half axes as orthogonal vectors.
    """
    unit = axes_mm / (axes_mm**2).sum(axis=1, keepdims=True)
    start, step = unit @ (source - centre_mm), rays @ unit.T
    a = (step**2).sum(-1)
    b = step @ start
    return 2 * np.sqrt(np.maximum(b * b - a * (start @ start - 1), 0)) / a


def _vertebrae(
    source: NDArray[np.float64], rays: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Bodies with denser end plates, and transverse processes, one every 26 mm."""
    shadow = np.zeros(rays.shape[:2])
    start = rng.uniform(-13, 13)
    for k in range(-4, 5):
        z = start + 26 * k
        parts = [((0, 72, z), (17, 14, 12), 0.0016)]
        parts += [((0, 72, z + end), (18, 14, 1.6), 0.0045) for end in (-11, 11)]
        parts += [((side * 18, 92, z + 4), (12, 5, 4.5), 0.0035) for side in (-1, 1)]
        for centre, half, mu in parts:
            shadow += mu * chord_mm(source, rays, np.array(centre), np.diag(half))
    return gaussian_filter(shadow, 0.7)


def _ribs(
    coarse: CArm, view: View, table_mm: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Posterior and lateral ribs: arcs round the chest that fall to the front."""
    angle = np.linspace(0.25, 2.2, 60)
    tubes, offset = [], rng.uniform(-13, 13)
    for k in range(-4, 6):
        for side in (-1, 1):
            points = np.stack(
                [
                    side * 125 * np.sin(angle),
                    5 + 92 * np.cos(angle),
                    26 * k + offset + 10 - 42 * (1 - np.cos(angle * 0.8)),
                ],
                axis=1,
            )
            tubes.append(Tube(points + table_mm, np.full(60, 9.0), np.zeros(60)))
    path, _ = rasterise(project_tubes(tubes, coarse, view), coarse.size)
    density = RIB_MU_PER_MM * rng.uniform(0.5, 1.2)
    return (density * gaussian_filter(path, 0.8)).astype(np.float32)


def texture(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth random structure `[size, size]` with zero mean, in nepers."""
    field = np.zeros((size, size), dtype=np.float32)
    for cells, strength in ((3, 0.09), (7, 0.045), (16, 0.022), (34, 0.014), (80, 0.008)):
        grid = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
        field += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
    return field - field.mean()


def catheter(
    ostium_mm: NDArray[np.float64], first_mm: NDArray[np.float64], rng: np.random.Generator
) -> Tube:
    """Return a guiding catheter that ends in the ostium.

    Args:
        ostium_mm: `[3]`.
        first_mm: `[3]`, a point a little inside the artery, for the direction of the tip.
        rng: Draws the way (over the arch or from the arm) and the size (5 or 6 French).
    """
    back = ostium_mm - first_mm
    back /= max(float(np.linalg.norm(back)), 1e-6)
    hook = ostium_mm + 9 * back + np.array([0, 2, 5])
    rising = hook + np.array([-9, 4, 34])
    if rng.random() < 0.6:
        rest = [(2, 28, 88), (17, 48, 84), (22, 56, 40), (22, 56, -60), (20, 56, -150)]
    else:
        rest = [(-22, 12, 92), (-45, 8, 125), (-80, 6, 160)]
    knots = np.array([ostium_mm + 2 * -back, ostium_mm, hook, rising, *rest])
    knots[4:] += rng.normal(0, 4, (len(rest), 3))
    points = _smooth_line(knots)
    french = rng.choice([5, 6])
    return Tube(points, np.full(len(points), french / 3), np.zeros(len(points)))


def ecg_wire(rng: np.random.Generator) -> Tube:
    """Return an electrode lead that crosses the front of the chest."""
    knots = rng.uniform((30, -110, -70), (75, -95, 60), (3, 3))
    knots[:, 2] = np.sort(knots[:, 2])
    points = _smooth_line(knots)
    diameters = np.full(len(points), 1.1)
    diameters[-7:] = 3.4
    return Tube(points, diameters, np.zeros(len(points)))


def _smooth_line(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join knots `[K, 3]` by short straight steps, then round the corners."""
    along = np.concatenate([[0], np.linalg.norm(np.diff(knots, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, along[-1], max(40, int(along[-1])))
    line = np.stack([np.interp(wanted, along, axis) for axis in knots.T], axis=1)
    return gaussian_filter(line, (6, 0), mode="nearest")


def collimator(
    size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the open field as soft weights `[H, W]` from 0 to 1, and as a mask.

    Each blade covers 0 to 4 % of the field, one of them sometimes up to 14 %.
    """
    margin = rng.uniform(0.0, 0.04, 4)
    if rng.random() < 0.4:
        margin[rng.integers(4)] = rng.uniform(0.06, 0.14)
    place = (np.arange(size) + 0.5) / size
    soft = 0.006
    edges = [
        1 / (1 + np.exp(-np.clip((distance - blade) / soft, -40, 40)))
        for distance, blade in zip((place, 1 - place, place, 1 - place), margin, strict=True)
    ]
    weight = np.outer(edges[0] * edges[1], edges[2] * edges[3]).astype(np.float32)
    return weight, weight > 0.5
