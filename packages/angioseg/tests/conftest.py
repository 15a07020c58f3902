"""Small data sets in both layouts."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SIDE = 24
CINES = {"A": (-30.0, 12.5), "B": (40.0, -20.0), "C": (5.0, 25.0)}
SPLITS = {"A": "train", "B": "train", "C": "val"}
FOLDER_COLUMNS = (
    "image",
    "cine",
    "patient",
    "frame_index",
    "primary_angle",
    "secondary_angle",
    "split",
)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _mask(frame: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, 4 + frame : 7 + frame] = True
    return mask


@pytest.fixture
def seed_data(tmp_path: Path) -> Path:
    """The CSV, NPY and JSON layout: three cines of four frames, two labelled frames each."""
    rng = np.random.default_rng(0)
    rows = []
    for name, (primary, secondary) in CINES.items():
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (4, SIDE, SIDE), np.uint8))
        angles = {"primary_angle": primary, "secondary_angle": secondary}
        (tmp_path / f"{name}.json").write_text(json.dumps({"view_angles": angles}))
        for frame in (1, 3):
            np.save(tmp_path / f"{name}_{frame}_mask.npy", _mask(frame))
            rows.append(
                {
                    "cine_path": f"{name}.npy",
                    "vessel_mask_actual_path": f"{name}_{frame}_mask.npy",
                    "contours_path": f"{name}.json",
                    "frame_index": frame,
                    "split": SPLITS[name],
                    "case_id": f"case{name}",
                }
            )
    write_rows(tmp_path / "dataset.csv", rows)
    return tmp_path


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """Folders of pictures with an angle table: three patients, two frames each."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    rows = []
    for name, angles in CINES.items():
        for frame in (1, 3):
            image = f"{name}_{frame}.png"
            pixels = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / image)
            Image.fromarray(_mask(frame)).save(tmp_path / "masks" / image)
            values = (image, name, f"P{name}", frame, *angles, SPLITS[name])
            rows.append(dict(zip(FOLDER_COLUMNS, values, strict=True)))
    write_rows(tmp_path / "index.csv", rows)
    return tmp_path


@pytest.fixture
def edit_rows() -> Callable[[Path, Callable[[list[dict[str, object]]], None]], None]:
    """Return a function that reads a table, lets a callable change its rows, and writes it."""

    def edit(path: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
        with path.open(newline="") as file:
            rows: list[dict[str, object]] = [dict(row) for row in csv.DictReader(file)]
        change(rows)
        write_rows(path, rows)

    return edit


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip with the reason."""
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MLKIT_DATA", default))
    if not (folder / "angio").is_dir():
        pytest.skip(f"real data is not at {folder}; set MLKIT_DATA")
    return folder


@pytest.fixture
def one_thread():
    """Keep small tensors on one thread: two are slower, and results do not hang on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
