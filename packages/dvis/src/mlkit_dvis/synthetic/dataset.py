"""Generated videos in YouTube-VIS layout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from mlkit_dvis.assembly import to_rles
from mlkit_dvis.synthetic.bodies import CLASSES
from mlkit_dvis.synthetic.scene import Difficulty, render
from mlkit_dvis.video import VideoWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

SPLITS = ("train", "val", "test")
FPS = 10.0


class Annotations:
    """One YouTube-VIS JSON as it grows.

    Args:
        classes: Names; category ids count from 1.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._videos: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]

    def add(
        self, files: Sequence[str], masks: npt.NDArray[np.bool_], labels: Sequence[int]
    ) -> None:
        """Add a video.

        Args:
            files: Names of its frames, within the frames' folder.
            masks: `[M, T, H, W]`; what is never seen is left out.
            labels: `[M]`.
        """
        number, (length, height, width) = len(self._videos) + 1, masks.shape[1:]
        size = {"height": height, "width": width, "length": length}
        self._videos.append({"id": number, "file_names": list(files), **size})
        for label, track in zip(labels, masks, strict=True):
            rles = to_rles(torch.from_numpy(track))
            if not any(rles):
                continue
            row = {"id": len(self._rows) + 1, "video_id": number, "category_id": label + 1}
            self._rows.append({**row, "segmentations": rles, "iscrowd": 0})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        content = {
            "videos": self._videos, "annotations": self._rows, "categories": self._categories
        }  # fmt: skip
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(path)


def write_frames(
    folder: Path, name: str, frames: npt.NDArray[np.uint8], suffix: str = ".jpg"
) -> list[str]:
    """Write frames `[T, H, W, 3]` into `folder/name`; return their names within `folder`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    files = [f"{name}/{t:05d}{suffix}" for t in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(folder / file, quality=92)
    return files


def write_videos(
    folder: Path,
    *,
    videos: int,
    frames: int,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    difficulty: Difficulty | None = None,
) -> list[Path]:
    """Write videos of an aquarium, as `frames/`, `train.json`, `val.json` and `test.json`.

    Each video is a pure function of seed and number. The first test video is also written as
    `sample.mp4`.

    Args:
        folder: Made.
        videos: In all splits together.
        frames: Of each video.
        size: Height and width in pixels.
        seed: Of everything.
        split: Shares of train, val and test.
        difficulty: None: `Difficulty()`.

    Returns:
        The JSON files of the splits that hold videos.
    """
    level = difficulty or Difficulty()
    ends = np.round(np.cumsum(split) / sum(split) * videos).astype(int)
    written: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, start, stop in zip(SPLITS, [0, *ends], ends, strict=False):
        annotations = Annotations(CLASSES)
        for number in range(start, stop):
            video = render(frames, size, level, np.random.default_rng([seed, number]))
            files = write_frames(folder / "frames", f"{name}{number:04d}", video.frames)
            annotations.add(files, video.masks, video.labels)
            if name == "test" and number == start:
                _write_film(folder / "sample.mp4", video.frames)
        if stop > start:
            written.append(folder / f"{name}.json")
            annotations.write(written[-1])
    return written


def _write_film(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    with VideoWriter(path, FPS, (frames.shape[1], frames.shape[2])) as film:
        for frame in frames:
            film.write(frame)
