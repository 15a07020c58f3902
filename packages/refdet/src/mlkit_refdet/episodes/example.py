"""A tiny data set for the contract kit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_core.types import Example

if TYPE_CHECKING:
    from pathlib import Path

_SIDE, _CLASSES = 96, "abcdef"


def example(folder: Path) -> Example:
    """Write pictures of six flat squares into the folder; return options that read them."""
    rng = np.random.default_rng(0)
    colours = {name: rng.integers(0, 255, 3) for name in _CLASSES}
    root = folder / "data"
    (root / "images").mkdir(parents=True)
    images, rows = [], []
    for number in range(16):
        picture = rng.integers(90, 160, (_SIDE, _SIDE, 3)).astype(np.uint8)
        if number < 12:
            x, y, side = (int(v) for v in rng.integers([8, 8, 24], [40, 40, 48]))
            picture[y : y + side, x : x + side] = colours[_CLASSES[number % 6]]
            row = {"id": number, "image_id": number, "category_id": number % 6}
            rows.append(row | {"bbox": [x, y, side, side]})
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": _SIDE, "width": _SIDE})
    for name, colour in colours.items():
        _write_photos(root / "references" / name, colour)
    categories = [{"id": number, "name": name} for number, name in enumerate(_CLASSES)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    options = {
        "root": str(root),
        "val_fold": (1, 3),
        "n_query": 1,
        "shots": 2,
        "episodes": 3,
        "query_size": _SIDE,
        "support_size": _SIDE,
    }
    own = {"query": root / "images" / "0.png", "support": root / "references"}
    return Example(options=options, args=(own,))


def _write_photos(folder: Path, colour: np.ndarray) -> None:
    """Write two photos of a square on nothing."""
    folder.mkdir(parents=True)
    for shot in range(2):
        photo = np.full((64, 64, 4), (114, 114, 114, 0), np.uint8)
        photo[16 + shot : 48, 16:48] = (*colour, 255)
        Image.fromarray(photo).save(folder / f"{shot}.png")
