"""Labels of an image: boxes, classes and outlines in original pixels, and how they become input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

from mlkit_cluster.images.letterbox import clip_to_content, to_input, to_original
from mlkit_cluster.kernel.masks import encode_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_cluster.images.listing import ImageEntry
    from mlkit_core.types import Letterbox

MIN_SIDE = 1e-3  # input pixels; a thinner box is no label
DOWN = 4  # input pixels of a side for each cell of a mask

# Polygons `[K, 2]` (x, y) in original pixels, their union; or a mask `[H, W]` bool.
Outline = tuple[np.ndarray, ...] | np.ndarray


@dataclass(frozen=True)
class Annotations:
    """What is known of one image; no objects is knowledge too.

    Args:
        boxes: `[n, 4]` float64, xyxy, original pixels.
        labels: `[n]` int32.
        outlines: One for each object; None where some object has only a box.
    """

    boxes: np.ndarray
    labels: np.ndarray
    outlines: tuple[Outline, ...] | None = None


class LabelSource(Protocol):
    """Where labels come from.

    Attributes: `names` of the classes (empty where the source does not tell), `kind` ("yolo" or
    "coco"), `labelled`, how many of the listed images are known.
    """

    kind: str
    names: tuple[str, ...]
    labelled: int

    def of(self, entry: ImageEntry, size: tuple[int, int]) -> Annotations | None:  # pyright: ignore[reportReturnType]
        """Return an image's labels, None where nothing is known of it; `size` is (height, width).

        Raises:
            DataError: They are malformed; file and line are named.
        """


@dataclass(frozen=True)
class GroundTruth:
    """Labels of one image as the losses and metrics take them.

    Args:
        boxes_input: `[n, 4]` float32, xyxy, input pixels, clipped to the image.
        boxes: `[n, 4]` float32, xyxy, original pixels, clipped.
        labels: `[n]` int32.
        masks: One blob for each at S / 4; None where outlines are not known.
    """

    boxes_input: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: tuple[bytes, ...] | None = None


def ground_truth(
    found: Annotations, box: Letterbox, size: tuple[int, int], image_size: int
) -> GroundTruth:
    """Return labels in the frame of the input; what has no extent within the image is dropped.

    Args:
        found: In original pixels.
        box: How the original became the input.
        size: Height and width of the original, pixels.
        image_size: Side of the input, pixels.
    """
    boxes = clip_to_content(to_input(found.boxes, box, size), box)
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) > MIN_SIDE)
    masks = None
    if found.outlines is not None:
        drawn = (rasterise(found.outlines[i], box, size, image_size) for i in kept)
        masks = tuple(encode_mask(mask) for mask in drawn)
    return GroundTruth(boxes[kept], to_original(boxes[kept], box, size), found.labels[kept], masks)


def rasterise(
    outline: Outline, box: Letterbox, size: tuple[int, int], image_size: int
) -> np.ndarray:
    """Return an object's mask `[S / 4, S / 4]` bool: cells of which it covers at least half.

    Args:
        outline: In original pixels.
        box: How the original became the input.
        size: Height and width of the original, pixels.
        image_size: Side S of the input, pixels.
    """
    full = np.zeros((image_size, image_size), np.uint8)
    if isinstance(outline, tuple):
        scale, offset = np.array(box.size[::-1]) / size[::-1], np.array(box.offset[::-1])
        for polygon in outline:
            # Pixel centres lie at half pixels: a corner at x = 0 is the edge of column 0.
            corners = np.asarray(polygon, np.float64) * scale + offset - 0.5
            cv2.fillPoly(full, [corners.round().astype(np.int32)], 1)
    else:
        resized = cv2.resize(
            outline.astype(np.float32), box.size[::-1], interpolation=cv2.INTER_LINEAR
        )
        full[box.content] = resized >= 0.5
    cells = full.reshape(image_size // DOWN, DOWN, image_size // DOWN, DOWN)
    return cells.sum((1, 3)) * 2 >= DOWN * DOWN


def match_names(found: tuple[str, ...], wanted: tuple[str, ...]) -> Mapping[int, int] | None:
    """Return how class numbers of one list of names become those of another; None if they cannot.

    Names decide, whatever their case; where no name is known, equally long lists are taken to have
    the same order.
    """
    places = {name.casefold(): index for index, name in enumerate(wanted)}
    known = [places.get(name.casefold()) for name in found]
    if all(place is not None for place in known):
        return {index: place for index, place in enumerate(known) if place is not None}
    if len(found) == len(wanted) and not any(place is not None for place in known):
        return {index: index for index in range(len(found))}
    return None
