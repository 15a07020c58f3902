"""Splits by patient, and the plain folder layout of images, masks and angles.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mlkit_angioseg.phantom.geometry import View

SPLITS = ("train", "val", "test")
ANGLE_COLUMNS = ("image", "patient", "split", "primary_angle", "secondary_angle")


def split_patients(
    count: int, fractions: tuple[float, float, float], rng: np.random.Generator
) -> list[str]:
    """Return train, val or test for each of `count` patients, in random order.

    A split with a fraction above 0 gets at least one patient where `count` allows it.

    Args:
        count: Patients.
        fractions: Of train, val and test; they sum to 1.
        rng: Draws the order.

    Raises:
        ValueError: If the fractions are negative or do not sum to 1, or there are fewer patients
            than splits.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"split fractions must be 0 or more and sum to 1, got {fractions}")
    wanted = [fraction > 0 for fraction in fractions]
    if count < sum(wanted):
        raise ValueError(f"{sum(wanted)} splits need as many patients, got {count}")
    sizes = [int(needed) for needed in wanted]
    while sum(sizes) < count:
        shortfall = [
            f * count - n if f > 0 else -np.inf for f, n in zip(fractions, sizes, strict=True)
        ]
        sizes[int(np.argmax(shortfall))] += 1
    names = [name for name, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
    return [names[i] for i in rng.permutation(count)]


@dataclass(frozen=True)
class Labelled:
    """One image of the folder layout.

    Args:
        name: File name without suffix, the same for image and mask.
        patient: Identity that never crosses splits.
        split: `"train"`, `"val"` or `"test"`.
        view: C-arm angles.
        image: `[H, W]`, uint8, or uint16 (written as 16-bit PNG).
        mask: `[H, W]`, bool.
    """

    name: str
    patient: str
    split: str
    view: View
    image: NDArray[np.uint8] | NDArray[np.uint16]
    mask: NDArray[np.bool_]


def write_folder(folder: Path, items: Iterable[Labelled]) -> Path:
    """Write images/, masks/ (0 or 255) and angles.csv, and return the path of angles.csv."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    for item in items:
        file = f"{item.name}.png"
        Image.fromarray(item.image).save(folder / "images" / file)
        write_mask(folder / "masks" / file, item.mask)
        angles = (item.view.primary_deg, item.view.secondary_deg)
        values = (file, item.patient, item.split, *angles)
        rows.append(dict(zip(ANGLE_COLUMNS, values, strict=True)))
    return write_csv(folder / "angles.csv", ANGLE_COLUMNS, rows)


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask `[H, W]` as an 8-bit PNG of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str | float | int]]
) -> Path:
    """Write rows under a header and return `path`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
