"""Masks at the original image's size, from those over the model's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlkit_cluster.report.source import Boxes, RunData

    Bits = npt.NDArray[np.bool_]


def instance_mask(run: RunData, boxes: Boxes, position: int, number: int) -> Bits | None:
    """Return one instance's mask `[height, width]`; None without mask or known letterbox."""
    blob, side = boxes.masks[number], (run.detector or {}).get("imgsz")
    width, height = map(int, run.sizes[position])
    ratio, left, top = run.letterbox[position].tolist()
    if blob is None or not side or not ratio > 0:
        return None
    from mlkit_cluster.kernel.masks import decode_mask  # the kernel takes seconds to import

    return original_mask(decode_mask(blob), (height, width), (ratio, left, top), side)


def original_mask(
    cells: Bits, size: tuple[int, int], letterbox: tuple[float, float, float], side: int
) -> Bits:
    """Return a mask over the model's input as one over the original, `[height, width]`.

    Each pixel takes the cell that its centre falls into: nothing is smoothed.

    Args:
        cells: `[h, w]`, over the whole square input.
        size: Height and width of the original.
        letterbox: Input pixels per original pixel, left and top padding in input pixels.
        side: Of the input, in pixels.
    """
    ratio, left, top = letterbox
    places: list[npt.NDArray[np.int64]] = []
    for length, pad, count in ((size[0], top, cells.shape[0]), (size[1], left, cells.shape[1])):
        centres = (np.arange(length) + 0.5) * ratio + pad
        places.append(np.clip((centres * count / side).astype(np.int64), 0, count - 1))
    return cells[np.ix_(*places)]
