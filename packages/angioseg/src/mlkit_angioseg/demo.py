"""The run files of `mlkit init angioseg` and `mlkit demo angioseg`."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TREES, _VIEWS, _SIZE = 40, 3, 256
_SPLIT = (0.8, 0.1, 0.1)


def run_file() -> str:
    """Return the run file for real angiograms, as YAML text."""
    return files("mlkit_angioseg").joinpath("run_files/angioseg.yaml").read_text(encoding="utf-8")


def write_demo(folder: Path) -> Path:
    """Write phantom angiograms and their run file into `folder`; return the run file's path.

    The phantom is a three-dimensional coronary tree, projected by the geometry of a C-arm; trees of
    splits val and test are in no other split.
    """
    from mlkit_angioseg.phantom import write_phantom

    write_phantom(
        folder / "data",
        trees=_TREES,
        views_per_tree=_VIEWS,
        size=_SIZE,
        split=_SPLIT,
        layout="folder",
    )
    text = files("mlkit_angioseg").joinpath("run_files/demo.yaml").read_text(encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    (folder / "demo.json").write_text(json.dumps(_plan(folder / "data")) + "\n", encoding="utf-8")
    return path


def _plan(data: Path) -> dict[str, object]:
    """Return what the demo does after training: score unseen trees, and predict one of them."""
    with (data / "angles.csv").open(encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["split"] == "test")
    view = f"{row['primary_angle']},{row['secondary_angle']}"
    return {"split": "test", "inputs": {"image": f"data/images/{row['image']}", "view": view}}
