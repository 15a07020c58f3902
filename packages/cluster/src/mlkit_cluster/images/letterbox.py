"""Images onto a grey square, centred, and boxes into it and back."""

from __future__ import annotations

import cv2
import numpy as np

from mlkit_core.types import Letterbox

PAD = 114  # grey, 0..255


def fit(size: tuple[int, int], image_size: int) -> Letterbox:
    """Return how an original of `size` (height, width) lies in a square of side `image_size`."""
    height, width = size
    scale = min(image_size / height, image_size / width)
    content = max(1, round(height * scale)), max(1, round(width * scale))
    # An odd pixel of padding goes below and to the right.
    top, left = (round((image_size - side) / 2 - 0.1) for side in content)
    return Letterbox(scale=scale, size=content, offset=(top, left))


def letterbox(pixels: np.ndarray, image_size: int) -> tuple[np.ndarray, Letterbox]:
    """Return `[S, S, 3]` uint8 and how the image `[H, W, 3]` uint8 lies in it."""
    box = fit(pixels.shape[:2], image_size)
    if pixels.shape[:2] != box.size:
        pixels = cv2.resize(pixels, box.size[::-1], interpolation=cv2.INTER_LINEAR)
    square = np.full((image_size, image_size, 3), PAD, np.uint8)
    square[box.content] = pixels
    return square, box


def to_input(boxes: np.ndarray, box: Letterbox, size: tuple[int, int]) -> np.ndarray:
    """Return boxes `[n, 4]` (xyxy, original pixels) in input pixels, float32.

    Args:
        boxes: In original pixels.
        box: How the original became the input.
        size: Height and width of the original, pixels.
    """
    offset, scale = _affine(box, size)
    return (_boxes(boxes) * scale + offset).astype(np.float32)


def to_original(boxes: np.ndarray, box: Letterbox, size: tuple[int, int]) -> np.ndarray:
    """Return boxes `[n, 4]` (xyxy, input pixels) in original pixels, clipped, float32.

    Args:
        boxes: In input pixels.
        box: How the original became the input.
        size: Height and width of the original, pixels.
    """
    offset, scale = _affine(box, size)
    moved = (_boxes(boxes) - offset) / scale
    return moved.clip(0, np.tile(size[::-1], 2)).astype(np.float32)


def clip_to_content(boxes: np.ndarray, box: Letterbox) -> np.ndarray:
    """Return boxes `[n, 4]` (xyxy, input pixels) clipped to what shows the image, float32."""
    low = np.array(box.offset[::-1])
    high = low + box.size[::-1]
    return _boxes(boxes).clip(np.tile(low, 2), np.tile(high, 2)).astype(np.float32)


def _boxes(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _affine(box: Letterbox, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and scale of x, y, x, y.

    Each axis has a scale of its own, because the content's sides were rounded to whole pixels.
    """
    scale = np.array(box.size[::-1], np.float64) / size[::-1]
    return np.tile(box.offset[::-1], 2), np.tile(scale, 2)
