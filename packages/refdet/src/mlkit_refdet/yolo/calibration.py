"""Pictures that a trunk's channels are brought to one scale by."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_SIDE, _IMAGES = 320, 24
_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_CROPS, _LEAVES = 4, 4


def calibration_images(folder: Path | None) -> list[Tensor]:
    """Return images `[3, 320, 320]`, RGB 0..1.

    Args:
        folder: Of photos, the first 24 in order of names; None: see `default_images`.

    Raises:
        DataError: The folder holds no picture that can be read.
    """
    if folder is None:
        return default_images()
    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in endings)[:_IMAGES]
    if not paths:
        raise DataError(f"calibration: {folder}: holds no pictures")
    return [_square(_opened(path)) for path in paths]


def default_images() -> list[Tensor]:
    """Return 20 crops of five photos that scikit-image's wheel carries, and 4 of dead leaves.

    Dead leaves alone move a deep layer's channels too little: neighbours of twelve objects at
    stride 16 were right in 48 of 100 cases by their scale, in 75 by that of these pictures (with
    low deviations raised) and by that of COCO photos.

    Raises:
        DataError: This scikit-image does not carry them.
    """
    rng, crops = np.random.default_rng(0), []
    for name in _PHOTOS:
        with as_file(files("skimage.data") / name) as path:
            if not path.is_file():
                raise DataError(f"{path}: no such file", hint="pip install 'scikit-image>=0.25'")
            photo = _opened(path)
        for count in range(_CROPS):
            side = rng.uniform(0.5, 1) * min(photo.size)
            left, top = (rng.uniform(0, length - side) for length in photo.size)
            box = (int(left), int(top), int(left + side), int(top + side))
            crop = photo.crop(box)
            flip = count % 2 == 1
            crops.append(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop)
    return [_square(crop) for crop in crops] + [dead_leaves(seed) for seed in range(_LEAVES)]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError) as err:
        raise DataError(f"calibration: {path}: cannot be read: {err}") from err


def _square(picture: Image.Image) -> Tensor:
    pixels = np.asarray(picture.resize((_SIDE, _SIDE))).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def dead_leaves(seed: int, side: int = _SIDE, leaves: int = 600) -> Tensor:
    """Return a picture of discs that hide each other, `[3, side, side]`, 0..1.

    Source: Lee, Mumford and Huang, "Occlusion Models for Natural Images", IJCV 2001: radii with a
    density of r^-3 give the scale invariance of photos.
    """
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), rng.uniform(0.2, 0.8, 3), np.float32)
    rows, columns = np.mgrid[:side, :side]
    least, most = 3.0, side / 3
    shares = rng.uniform(size=leaves)
    radii = 1 / np.sqrt((1 - shares) / least**2 + shares / most**2)
    for radius in radii:
        y, x = rng.uniform(0, side, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        picture[disc] = rng.uniform(0, 1, 3) + rng.normal(0, 0.04, (int(disc.sum()), 1))
    return torch.from_numpy(np.clip(picture, 0, 1)).permute(2, 0, 1).float().contiguous()
