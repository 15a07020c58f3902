"""Targets of all images: boxes, classes and masks, and the one frame in which they are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlkit_core.errors import InputError


@dataclass(frozen=True)
class Targets:
    """The targets of J images, one after another.

    Args:
        boxes_xywhn: `[G, 4]` float32, centre and size divided by the input's side.
        labels: `[G]` int32.
        starts: `[J + 1]` int64; image j owns rows `starts[j]` to `starts[j + 1]` (exclusive).
        masks: One blob of `encode_mask` for each row, at a quarter of the input; None: no masks.

    Raises:
        InputError: The lengths disagree, or a number is not finite.
    """

    boxes_xywhn: np.ndarray
    labels: np.ndarray
    starts: np.ndarray
    masks: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.boxes_xywhn.shape != (count, 4):
            raise InputError(f"targets: {count} labels for boxes {self.boxes_xywhn.shape}")
        if not np.isfinite(self.boxes_xywhn).all():
            raise InputError("targets: a box is not finite")
        rises = len(self.starts) and self.starts[0] == 0 and (np.diff(self.starts) >= 0).all()
        if not rises or self.starts[-1] != count:
            raise InputError(f"targets: starts must rise from 0 to {count}")
        if self.masks is not None and len(self.masks) != count:
            raise InputError(f"targets: {len(self.masks)} masks for {count} boxes")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts) - 1

    def of(self, index: int) -> tuple[np.ndarray, np.ndarray, tuple[bytes, ...] | None]:
        """Return boxes `[g, 4]` (xywhn), labels `[g]` and masks of one image."""
        own = slice(int(self.starts[index]), int(self.starts[index + 1]))
        masks = None if self.masks is None else self.masks[own]
        return self.boxes_xywhn[own], self.labels[own], masks


def to_canonical(boxes_xyxy: np.ndarray, image_size: int) -> np.ndarray:
    """Return boxes as centre and size over the input's side, `[G, 4]` float32.

    Everything that makes targets goes through here, because the last bit of a coordinate decides
    whether an anchor lies inside a box.

    Args:
        boxes_xyxy: `[G, 4]`, corners in input pixels.
        image_size: The input's side, pixels.
    """
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    low, high = boxes[:, :2], boxes[:, 2:]
    side = np.float32(image_size)
    return np.concatenate([(low + high) / np.float32(2) / side, (high - low) / side], 1)
