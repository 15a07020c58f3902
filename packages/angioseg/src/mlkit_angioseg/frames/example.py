"""A tiny data set on disk, for the contract kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_core.types import Example

if TYPE_CHECKING:
    from pathlib import Path

_SIDE = 64
_HEADER = "image,cine,patient,frame_index,primary_angle,secondary_angle,split"


def example(folder: Path) -> Example:
    """Write six frames of three patients into `folder`; return options that read them."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = [_HEADER]
    for index in range(6):
        patient, name = f"P{index // 2}", f"frame{index}.png"
        mask = np.zeros((_SIDE, _SIDE), np.uint8)
        mask[:, 10 + 6 * index : 14 + 6 * index] = 255
        grey = rng.normal(150, 10, mask.shape) - 80 * (mask > 0)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
        split = "val" if patient == "P2" else "train"
        lines.append(f"{name},C{index},{patient},{index},{20 * index - 50},{5 * index},{split}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    views = {"image": folder / "images", "view": folder / "index.csv"}
    return Example(options={"root": folder, "size": _SIDE, "augment": False}, args=(views,))
