"""A proof set on real pixels: the label is the wide or the narrow part of a real mask."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from mlkit_angioseg.phantom.layout import SPLITS, Labelled, split_patients, write_folder
from mlkit_angioseg.phantom.proof import view_of_family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


def local_width(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the width in pixels of the vessel at each mask pixel, 0 elsewhere.

    The width is twice the distance to the background at the nearest pixel of the skeleton.

    Args:
        mask: `[H, W]`.
    """
    if not mask.any():
        return np.zeros(mask.shape)
    spine = skeletonize(mask)
    rows, columns = np.asarray(
        distance_transform_edt(~spine, return_distances=False, return_indices=True)
    )
    width = 2 * np.asarray(distance_transform_edt(mask), dtype=np.float64)
    return np.where(mask, width[rows, columns], 0)


def write_semi_synthetic(
    folder: str | Path,
    *,
    images: str | Path,
    masks: str | Path,
    patients: str | Path | None = None,
    width_px: float | None = None,
    seed: int = 0,
    split: tuple[float, float, float] = (0.6, 0.2, 0.2),
) -> Path:
    """Write real frames whose label is the wide vessels in LAO and the narrow ones in RAO.

    The angles are drawn at random, half of the frames LAO, so that only they tell which part is
    asked for. Frames in which either part is empty are left out.

    Args:
        folder: Made if missing; gets images/, masks/ and angles.csv.
        images: Folder of 8-bit PNG frames.
        masks: Folder of PNG masks under the same names, any non-zero value is vessel.
        patients: CSV with columns `image`, `patient` and, if it has it, `split`; without it every
            frame counts as a patient of its own.
        width_px: Wide is above it; by default the width that halves the area of all masks.
        seed: Of angles and split.
        split: Fractions of patients in train, val and test, where `patients` names no split.

    Returns:
        Path of angles.csv.

    Raises:
        ValueError: If there are no frames with a mask, a frame is missing from `patients`, or
            image and mask differ in size.
    """
    names = sorted(p.name for p in Path(images).glob("*.png") if (Path(masks) / p.name).is_file())
    if not names:
        raise ValueError(f"no PNG in {images} has a mask of the same name in {masks}")
    widths = {name: local_width(_read(Path(masks) / name) > 0) for name in names}
    if width_px is None:
        width_px = float(np.median(np.concatenate([w[w > 0] for w in widths.values()])))
    names = [n for n in names if (w := widths[n]).max() > width_px and w[w > 0].min() <= width_px]
    rng = np.random.default_rng(seed)
    owners = _owners(names, patients, split, rng)
    asked = rng.permutation(np.arange(len(names)) % 2).tolist()

    def items() -> Iterator[Labelled]:
        for name, family in zip(names, asked, strict=True):
            image, width = _read(Path(images) / name), widths[name]
            if image.shape != width.shape:
                raise ValueError(f"{name}: image {image.shape} and mask {width.shape} differ")
            mask = width > width_px if family else (width > 0) & (width <= width_px)
            view = view_of_family(family, 2, rng)
            yield Labelled(Path(name).stem, *owners[name], view, image, mask)

    return write_folder(Path(folder), items())


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _owners(
    names: Sequence[str],
    patients: str | Path | None,
    split: tuple[float, float, float],
    rng: np.random.Generator,
) -> dict[str, tuple[str, str]]:
    """Patient and split of every frame."""
    if patients is None:
        splits = split_patients(len(names), split, rng)
        return {n: (Path(n).stem, s) for n, s in zip(names, splits, strict=True)}
    with Path(patients).open(newline="", encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(f"{patients}: no row for {len(missing)} frames, such as {missing[0]!r}")
    people = sorted({rows[name]["patient"] for name in names})
    if all(rows[name].get("split") in SPLITS for name in names):
        return {name: (rows[name]["patient"], rows[name]["split"]) for name in names}
    drawn = dict(zip(people, split_patients(len(people), split, rng), strict=True))
    return {name: (rows[name]["patient"], drawn[rows[name]["patient"]]) for name in names}
