"""Two classes that only the order of frames tells apart.

A "beater" goes through a cycle of poses forwards, a "winder" backwards, while both drift to and
fro. Each pair of videos, one of each class, holds the very same frames in another order, so that
no single frame and no set of frames says anything of the class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlkit_dvis.synthetic.bodies import random_body
from mlkit_dvis.synthetic.dataset import Annotations, write_frames
from mlkit_dvis.synthetic.scene import Background, Path, compose

if TYPE_CHECKING:
    import pathlib

    import numpy.typing as npt

MOTIONS = ("beater", "winder")
POSES = 6


@dataclass(frozen=True)
class Pair:
    """A forward and a backward video.

    Args:
        frames: `[2, T, H, W, 3]`; the second is the first in another order.
        masks: `[2, T, H, W]`.
    """

    frames: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]


def make_pair(frames: int, size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """Return two videos of equal sets of frames and opposite motions.

    The drift goes there and back with each place visited once on either way, the pose cycle runs
    on; played backwards the drift is of the same kind, the cycle is not.

    Args:
        frames: Of each video, a multiple of `POSES`.
        size: Height and width in pixels.
        rng: Gives all randomness.
    """
    height, width = size
    time = np.arange(frames)
    radius = height * rng.uniform(0.2, 0.3)
    start = rng.uniform(0, frames)
    drift = 0.16 * width * np.cos(2 * np.pi * (time + start) / frames)
    path = Path(
        x=width * rng.uniform(0.42, 0.58) + drift,
        y=np.full(frames, height * rng.uniform(0.4, 0.6)),
        angle=2 * np.pi * (time + rng.integers(POSES)) / POSES,
        radius=np.full(frames, radius),
        phase=np.zeros(frames),
        facing=1.0,
    )
    body = replace(random_body("fish", rng), stretch=1.3)
    background = Background(size, 0, rng).at(0.0)
    drawn = [compose(background, [body], [path], t) for t in range(frames)]
    pictures = np.stack([picture for picture, _ in drawn])
    masks = np.stack([seen[0] for _, seen in drawn])
    return Pair(np.stack([pictures, pictures[::-1]]), np.stack([masks, masks[::-1]]))


def write_motion_set(
    folder: pathlib.Path,
    *,
    videos: int,
    frames: int = 12,
    size: tuple[int, int] = (64, 96),
    seed: int = 0,
    held_out: float = 0.25,
) -> list[pathlib.Path]:
    """Write `train.json`, `val.json` and `val_shuffled.json` of motions, and their frames.

    The shuffled split holds the videos of val with their frames in random order.

    Args:
        folder: Made.
        videos: In train and val together; half of each class.
        frames: Of each video, a multiple of the number of poses.
        size: Height and width in pixels.
        seed: Of everything.
        held_out: Share of the pairs in val.

    Raises:
        ValueError: The cycle does not fit the number of frames.
    """
    if frames % POSES:
        raise ValueError(f"frames must be a multiple of {POSES}, got {frames}")
    pairs = max(2, videos // 2)
    held = max(1, round(held_out * pairs))
    files = {name: Annotations(MOTIONS) for name in ("train", "val", "val_shuffled")}
    for number in range(pairs):
        rng = np.random.default_rng([seed, number])
        pair = make_pair(frames, size, rng)
        split = "val" if number < held else "train"
        for label, (pictures, masks) in enumerate(zip(pair.frames, pair.masks, strict=True)):
            name = f"{split}{number:04d}{MOTIONS[label][0]}"
            names = write_frames(folder / "frames", name, pictures, ".png")
            files[split].add(names, masks[None], [label])
            if split == "val":
                order = rng.permutation(frames)
                shuffled = [names[t] for t in order]
                files["val_shuffled"].add(shuffled, masks[order][None], [label])
    for name, file in files.items():
        file.write(folder / f"{name}.json")
    return [folder / f"{name}.json" for name in files]
