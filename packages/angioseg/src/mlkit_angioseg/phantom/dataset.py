"""Writes phantom data sets: cines with angles in the seed's CSV layout, or plain folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_angioseg.phantom.anatomy import SIDES
from mlkit_angioseg.phantom.geometry import CArm, View
from mlkit_angioseg.phantom.growth import grow_tree
from mlkit_angioseg.phantom.layout import Labelled, split_patients, write_csv, write_folder
from mlkit_angioseg.phantom.render import DEFAULT_IMAGING, Acquisition, Imaging, render_cine
from mlkit_angioseg.phantom.tree import CoronaryTree, Stenosis
from mlkit_angioseg.phantom.views import clinical_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Layout = Literal["csv", "folder"]
SEED_COLUMNS = (
    "cine_path",
    "vessel_mask_actual_path",
    "contours_path",
    "frame_index",
    "split",
    "case_id",
    "primary_angle",
    "secondary_angle",
)


@dataclass(frozen=True)
class _Run:
    """One run of one patient, not yet rendered."""

    case: str
    name: str
    split: str
    acquisition: Acquisition


def write_phantom(
    folder: str | Path,
    *,
    trees: int = 12,
    views_per_tree: int = 4,
    size: int = 256,
    seed: int = 0,
    split: tuple[float, float, float] = (0.6, 0.2, 0.2),
    layout: Layout = "csv",
    frames: int = 12,
    stenosis_share: float = 0.25,
    imaging: Imaging = DEFAULT_IMAGING,
) -> Path:
    """Write a phantom data set and return the path of its CSV.

    `"csv"` writes dataset.csv with relative paths, cines/*.npy `[T, H, W]`, masks/*.npy `[H, W]`
    of 0 and 1, and contours/*.json with `view_angles` and `calibration`. `"folder"` writes
    images/*.png, masks/*.png and angles.csv. A patient is one tree, alternately left and right,
    and never appears in two splits. Equal arguments write equal files.

    Args:
        folder: Made if missing.
        trees: Patients.
        views_per_tree: Runs of each patient, from the usual clinical views.
        size: Side of the image in pixels; the field is always 153.6 mm at the detector.
        seed: Of everything.
        split: Fractions of patients in train, val and test.
        layout: File layout.
        frames: Length of a cine, at least 4; the folder layout has single frames.
        stenosis_share: Probability that a patient has a stenosis in a main artery.
        imaging: X-ray chain; `imaging.bits` sets uint8 or uint16.

    Raises:
        ValueError: If a count is below 1, the layout is unknown or the split does not add up.
    """
    if min(trees, views_per_tree) < 1:
        raise ValueError(f"need at least one tree and view, got {trees} and {views_per_tree}")
    if layout not in ("csv", "folder"):
        raise ValueError(f"layout must be 'csv' or 'folder', got {layout!r}")
    if not 0 <= stenosis_share <= 1:
        raise ValueError(f"stenosis_share must lie in 0..1, got {stenosis_share}")
    rng = np.random.default_rng(seed)
    splits = split_patients(trees, split, rng)
    patients = [_patient(index, stenosis_share, rng) for index in range(trees)]
    carm = CArm.for_size(size)
    runs = (
        _Run(case, f"{case}_V{number}", name, Acquisition(tree, carm, view, run_seed, imaging))
        for case, tree, name in zip(_case_ids(trees), patients, splits, strict=True)
        for number, (view, run_seed) in enumerate(_views(tree, views_per_tree, rng))
    )
    if layout == "folder":
        return write_folder(Path(folder), (_single_frame(run) for run in runs))
    return _write_seed_layout(Path(folder), runs, frames)


def _case_ids(count: int) -> list[str]:
    return [f"P{index:03d}" for index in range(count)]


def _patient(index: int, stenosis_share: float, rng: np.random.Generator) -> CoronaryTree:
    side = SIDES[index % 2]
    stenosis = None
    if rng.random() < stenosis_share:
        branch = str(rng.choice(("LAD", "LCx") if side == "left" else ("RCA",)))
        place, percent = rng.uniform(0.15, 0.7), rng.uniform(40, 85)
        stenosis = Stenosis(branch, float(place), float(percent), float(rng.uniform(8, 18)))
    return grow_tree(side, int(rng.integers(2**31)), stenosis)


def _views(tree: CoronaryTree, count: int, rng: np.random.Generator) -> Iterator[tuple[View, int]]:
    for view in clinical_views(tree.side, count, rng):
        yield view, int(rng.integers(2**31))


def _single_frame(run: _Run) -> Labelled:
    frame = run.acquisition.frame()
    view = run.acquisition.view
    return Labelled(run.name, run.case, run.split, view, frame.image, frame.mask)


def _write_seed_layout(folder: Path, runs: Iterator[_Run], frames: int) -> Path:
    for name in ("cines", "masks", "contours"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_csv(
        folder / "dataset.csv", SEED_COLUMNS, [_write_run(folder, run, frames) for run in runs]
    )


def _write_run(folder: Path, run: _Run, frames: int) -> dict[str, str | float | int]:
    cine = render_cine(run.acquisition, frames)
    index, view = cine.frame_index, run.acquisition.view
    row: dict[str, str | float | int] = {
        "cine_path": f"cines/{run.name}.npy",
        "vessel_mask_actual_path": f"masks/{run.name}_{index:05d}.npy",
        "contours_path": f"contours/{run.name}.json",
        "frame_index": index,
        "split": run.split,
        "case_id": run.case,
        "primary_angle": view.primary_deg,
        "secondary_angle": view.secondary_deg,
    }
    _save(folder / str(row["cine_path"]), cine.images)
    _save(folder / str(row["vessel_mask_actual_path"]), cine.masks[index].astype(np.uint8))
    text = json.dumps(_contours(run, index), indent=1)
    (folder / str(row["contours_path"])).write_text(text + "\n", encoding="utf-8")
    return row


def _save(path: Path, array: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    np.save(path, array, allow_pickle=False)


def _contours(run: _Run, frame_index: int) -> dict[str, object]:
    carm, view = run.acquisition.carm, run.acquisition.view
    return {
        "view_angles": {
            "primary_angle": view.primary_deg,
            "secondary_angle": view.secondary_deg,
            "convention": "DICOM: primary + = LAO, secondary + = CRA",
        },
        "calibration": {
            "imager_pixel_spacing_mm": [carm.pitch_mm, carm.pitch_mm],
            "sid_mm": carm.sid_mm,
            "sod_mm": carm.sod_mm,
        },
        "frame_num": frame_index,
        "side": run.acquisition.tree.side,
    }
