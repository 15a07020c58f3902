"""The proof set: images in which only the view angle tells what the label is.

Every image holds k families of vessel-like curves. Family j runs in the j-th band of
orientations; otherwise the families are the same curves, so widths, lengths, contrast, places
and areas follow one distribution. The label is the family that the bin of the angles names. The
image is made before the angles are drawn and does not depend on them, so nothing in it tells the
label: a model without the view does best by marking all families.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from mlkit_angioseg.phantom.geometry import View
from mlkit_angioseg.phantom.layout import Labelled, split_patients, write_folder, write_mask
from mlkit_angioseg.phantom.scene import texture
from mlkit_angioseg.phantom.tubes import Slices, rasterise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PRIMARY_LIMIT_DEG, SECONDARY_LIMIT_DEG = 50.0, 40.0
MARGIN_DEG = 6.0
CURVES_PER_FAMILY = 3
GAP_PX = 2.5
SHRINK = 0.95
MAX_FAMILIES = 6


@dataclass(frozen=True)
class ProofImage:
    """An image `[H, W]` uint8 and the masks `[K, H, W]` bool of its k families, disjoint."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def no_view_bound(families: int) -> float:
    """Return 2 / (1 + k), the best expected Dice of a model that does not see the view.

    Marking m of k disjoint families of equal area scores 2 / (1 + m) with probability m / k, so
    the mean is 2 m / (k (1 + m)), which grows with m: marking all is best.

    Raises:
        ValueError: If there are fewer than 2 families.
    """
    if families < 2:
        raise ValueError(f"families must be at least 2, got {families}")
    return 2 / (1 + families)


def family_of_view(view: View, families: int) -> int:
    """Return the family that a view names.

    With 4 families the quadrants: 0 RAO caudal, 1 LAO caudal, 2 RAO cranial, 3 LAO cranial. With
    any other number, equal bins of the primary angle from -50 (RAO) to 50 (LAO) degrees.
    """
    if families == 4:
        return int(view.primary_deg > 0) + 2 * int(view.secondary_deg > 0)
    place = (view.primary_deg + PRIMARY_LIMIT_DEG) / (2 * PRIMARY_LIMIT_DEG)
    return int(np.clip(np.floor(place * families), 0, families - 1))


def view_of_family(family: int, families: int, rng: np.random.Generator) -> View:
    """Return a view drawn evenly from the family's bin, `MARGIN_DEG` away from its edges."""
    if not 0 <= family < families:
        raise ValueError(f"family must lie in 0..{families - 1}, got {family}")
    if families == 4:
        primary = rng.uniform(MARGIN_DEG, PRIMARY_LIMIT_DEG) * (1 if family % 2 else -1)
        secondary = rng.uniform(MARGIN_DEG, SECONDARY_LIMIT_DEG) * (1 if family > 1 else -1)
    else:
        width = 2 * PRIMARY_LIMIT_DEG / families
        low = -PRIMARY_LIMIT_DEG + width * family
        margin = min(MARGIN_DEG, width / 4)
        primary = rng.uniform(low + margin, low + width - margin)
        secondary = rng.uniform(-SECONDARY_LIMIT_DEG, SECONDARY_LIMIT_DEG)
    return View(round(float(primary), 1), round(float(secondary), 1))


def proof_image(size: int, families: int, rng: np.random.Generator) -> ProofImage:
    """Return one image; its looks do not depend on any angle.

    Args:
        size: Side in pixels, at least 64.
        families: 2 to 6.
        rng: Draws everything.

    Raises:
        ValueError: If the size or the number of families is out of range.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64, got {size}")
    if not 2 <= families <= MAX_FAMILIES:
        raise ValueError(f"families must lie in 2..{MAX_FAMILIES}, got {families}")
    curves = _place_all(size, families, rng)
    masks = np.zeros((families, size, size), dtype=bool)
    attenuation = 1.2 * texture(size, rng)
    for family, slices in curves:
        path, mask = rasterise(slices, size)
        masks[family] |= mask
        attenuation += path
    signal = gaussian_filter(np.exp(-attenuation), 0.6)
    signal += rng.normal(0, 0.02, signal.shape)
    grey = np.clip(np.rint(118 * signal), 0, 255).astype(np.uint8)
    return ProofImage(grey, masks)


def _place_all(size: int, families: int, rng: np.random.Generator) -> list[tuple[int, Slices]]:
    """Place the same curves once per family, in random order, apart from each other."""
    scale = size / 96
    crowd = min(1.0, 1.7 / np.sqrt(families))
    lengths = rng.uniform(17, 25, CURVES_PER_FAMILY) * scale * crowd
    widths = rng.uniform(2.4, 4.0, CURVES_PER_FAMILY) * max(1.0, scale**0.5)
    depths = rng.uniform(0.25, 0.45, CURVES_PER_FAMILY)
    todo = [(f, c) for f in range(families) for c in range(CURVES_PER_FAMILY)]
    while True:
        placed: list[tuple[int, Slices]] = []
        for at in rng.permutation(len(todo)):
            family, curve = todo[at]
            shape = (float(lengths[curve]), float(widths[curve]), float(depths[curve]))
            band = (180 / families * family, 32 / families)
            slices = _place(size, shape, band, [s for _, s in placed], rng)
            if slices is None:
                break
            placed.append((family, slices))
        if len(placed) == len(todo):
            return placed
        lengths *= SHRINK  # every family alike, so that a crowded image still comes out


def _place(
    size: int,
    shape: tuple[float, float, float],
    band_deg: tuple[float, float],
    others: list[Slices],
    rng: np.random.Generator,
) -> Slices | None:
    """A slightly bent, slightly tapering curve clear of the others; none after 60 tries."""
    for _ in range(60):
        slices = _curve(size, shape, band_deg, rng)
        if all(_clear(slices, other) for other in others):
            return slices
    return None


def _curve(
    size: int,
    shape: tuple[float, float, float],
    band_deg: tuple[float, float],
    rng: np.random.Generator,
) -> Slices:
    length, width, depth = shape
    steps = int(length / 0.4)
    spread = band_deg[1]
    heading = band_deg[0] + rng.uniform(-spread, spread) + rng.choice([0, 180])
    bend = rng.uniform(-spread, spread) * np.linspace(-1, 1, steps)
    angle = np.radians(heading + bend)
    column, row = np.cumsum(np.cos(angle)), -np.cumsum(np.sin(angle))
    stride = length / steps
    # Centres fall in a disc, so that no orientation comes nearer to the border than another.
    radius = (size / 2 - length / 2 - width) * np.sqrt(rng.uniform())
    turn = rng.uniform(0, 2 * np.pi)
    column = (column - column.mean()) * stride + size / 2 - 0.5 + radius * np.cos(turn)
    row = (row - row.mean()) * stride + size / 2 - 0.5 + radius * np.sin(turn)
    radii = width / 2 * np.linspace(1.12, 0.88, steps)
    # A disc of this height sums to an attenuation of `depth` in the middle of the curve.
    weight = np.full(steps, depth * stride / width)
    return Slices(column, row, radii, weight, np.zeros(steps))


def _clear(one: Slices, other: Slices) -> bool:
    gap = one.radius_px.max() + other.radius_px.max() + GAP_PX
    distance = np.hypot(
        one.column[::3, None] - other.column[None, ::3], one.row[::3, None] - other.row[None, ::3]
    )
    return bool((distance > gap).all())


def write_proof(
    folder: str | Path,
    *,
    count: int = 96,
    size: int = 96,
    families: int = 4,
    seed: int = 0,
    split: tuple[float, float, float] = (0.6, 0.2, 0.2),
) -> Path:
    """Write the proof set in the folder layout and return the path of angles.csv.

    Besides images/, masks/ and angles.csv it writes masks_all/NAME_fJ.png for every family J, so
    that a test can tell which family a prediction marks. Every image is a patient of its own.

    Args:
        folder: Made if missing.
        count: Images; bins take turns, so they are equally frequent.
        size: Side in pixels, at least 64.
        families: k, from 2 to 6.
        seed: Of everything; images and angles come from separate streams.
        split: Fractions of images in train, val and test.

    Raises:
        ValueError: If an argument is out of range.
    """
    folder = Path(folder)
    looks, angles = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    splits = split_patients(count, split, angles)
    asked = angles.permutation(np.arange(count) % families)
    (folder / "masks_all").mkdir(parents=True, exist_ok=True)

    def items() -> Iterator[Labelled]:
        for index in range(count):
            made = proof_image(size, families, looks)
            name = f"proof_{index:04d}"
            for family, mask in enumerate(made.masks):
                write_mask(folder / "masks_all" / f"{name}_f{family}.png", mask)
            family = int(asked[index])
            view = view_of_family(family, families, angles)
            patient = f"P{index:04d}"
            yield Labelled(name, patient, splits[index], view, made.image, made.masks[family])

    return write_folder(folder, items())
