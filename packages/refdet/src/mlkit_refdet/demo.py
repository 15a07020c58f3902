"""The run files of `mlkit init refdet` and `mlkit demo refdet`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FRAMES, _SIZE, _OBJECT_PX = 32, (128, 160), (16.0, 48.0)
_SEEN, _UNSEEN = 48, 8
_FILM = "data/unseen/samples/Crate_6"


def run_file() -> str:
    """Return the run file for one's own videos, as YAML text."""
    return files("mlkit_refdet").joinpath("run_files/refdet.yaml").read_text(encoding="utf-8")


def write_demo(folder: Path) -> Path:
    """Write generated drone clips and their run file into `folder`; return the run file's path."""
    from mlkit_refdet.scenes.drone import write_drone_set

    for name, videos, first in (("train", _SEEN, 0), ("unseen", _UNSEEN, _SEEN)):
        write_drone_set(
            folder / "data" / name,
            videos=videos,
            frames=_FRAMES,
            size=_SIZE,
            seed=7,
            first=first,
            object_px=_OBJECT_PX,
        )
    text = files("mlkit_refdet").joinpath("run_files/demo.yaml").read_text(encoding="utf-8")
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    inputs = {"query": f"{_FILM}/drone_video.mp4", "support": f"{_FILM}/object_images"}
    plan = {"split": "test", "inputs": inputs}
    (folder / "demo.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")
    return path
