"""The contract kit's example of `video-clips`: generated videos in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_core.types import Example
from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.formats.ytvis import write_ytvis
from mlkit_dvis.clips.masks import encode
from mlkit_dvis.video import VideoWriter

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_dvis.results import Rle

_SIZE, _FRAMES, _SQUARE = (40, 56), 6, 12


def example(folder: Path) -> Example:
    """Write three videos of a square that moves down; return options, and a film to open."""
    videos = tuple(_write_video(folder / "frames", number) for number in range(1, 4))
    annotations = folder / "videos.json"
    write_ytvis(ClipSet(videos, ("fish", "crab"), folder / "frames"), annotations)
    film = folder / "film.mp4"
    with VideoWriter(film, 10, _SIZE) as writer:
        for frame in videos[0].frames:
            writer.write(np.asarray(Image.open(frame)))
    options = {
        "annotations": annotations,
        "val_videos": ("video3",),
        "num_frames": 3,
        "frame_range": 1,
        "short_sides": (24, 32),
        "crop": 0.0,
        "size": 32,
    }
    return Example(options=options, args=({"frames": film},))


def _write_video(root: Path, number: int) -> Video:
    (root / f"video{number}").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    rles: list[Rle | None] = []
    files: list[Path] = []
    for t in range(_FRAMES):
        mask = np.zeros(_SIZE, bool)
        mask[8 + 2 * t : 8 + 2 * t + _SQUARE, 6 * number : 6 * number + _SQUARE] = True
        picture = rng.integers(0, 80, (*_SIZE, 3), np.uint8)
        picture[mask] = (220, 60 * number, 40)
        rles.append(encode(mask))
        files.append(root / f"video{number}" / f"{t:05d}.png")
        Image.fromarray(picture).save(files[-1])
    square = Instance(number, number % 2, tuple(rles))
    return Video(number, f"video{number}", _SIZE, _FRAMES, tuple(files), instances=(square,))
