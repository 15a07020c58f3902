"""A tiny labelled data set on disk, for the contract kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_cluster.images.component import ImageFolder
from mlkit_core.types import Example

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_core.types import Batch

SIDE = 64
_NAMES = ("square", "bar")


def write_images(folder: Path) -> Path:
    """Write six images with a shape each, their YOLO labels and the data set's YAML; return it."""
    for split in ("train", "val"):
        for name in ("images", "labels"):
            (folder / name / split).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(6):
        split, label = "val" if index > 3 else "train", index % 2
        pixels = rng.integers(0, 100, (48, SIDE, 3), np.uint8)
        width, height = (24, 24) if label == 0 else (40, 10)
        x, y = 2 + 2 * index, 4 + 2 * index
        pixels[y : y + height, x : x + width] = 200
        Image.fromarray(pixels).save(folder / "images" / split / f"{index}.png")
        middle = ((x + width / 2) / SIDE, (y + height / 2) / 48)
        line = (label, *middle, width / SIDE, height / 48)
        (folder / "labels" / split / f"{index}.txt").write_text(" ".join(map(str, line)))
    lines = [f"  {index}: {name}" for index, name in enumerate(_NAMES)]
    text = "\n".join(["train: images/train", "val: images/val", "names:", *lines, ""])
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def example(folder: Path) -> Example:
    """Return options that read a tiny data set, and a folder to open."""
    options = {"source": write_images(folder), "image_size": SIDE}
    return Example(options=options, args=({"image": folder / "images"},))


def example_batches(folder: Path) -> list[Batch]:
    """Return two batches of three labelled images, 64 pixels."""
    data = ImageFolder(write_images(folder), image_size=SIDE)
    samples = [[data.load(draw) for draw in unit] for unit in data.units("cache", 0)]
    return [*data.collate(samples[:3]), *data.collate(samples[3:])]
