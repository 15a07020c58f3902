"""The run files of `mlkit init dvis` and `mlkit demo dvis`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_VIDEOS, _FRAMES, _SIZE = 72, 16, (96, 160)
_SPLIT = (56.0, 8.0, 8.0)


def run_file() -> str:
    """Return the run file for one's own videos, as YAML text."""
    return files("mlkit_dvis").joinpath("run_files/dvis.yaml").read_text(encoding="utf-8")


def write_demo(folder: Path) -> Path:
    """Write a generated aquarium and its run file into `folder`; return the run file's path."""
    from mlkit_dvis.synthetic import Difficulty, write_videos

    few = Difficulty(fewest=2, most=3, coming=0.3)
    write_videos(
        folder / "data",
        videos=_VIDEOS, frames=_FRAMES, size=_SIZE, seed=7, split=_SPLIT, difficulty=few,
    )  # fmt: skip
    text = files("mlkit_dvis").joinpath("run_files/demo.yaml").read_text(encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    plan = {"split": "test", "inputs": {"frames": "data/sample.mp4"}}
    (folder / "demo.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")
    return path
