"""What is loaded before it is collated: frames, classes' photos, episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_core.types import SampleMeta


@dataclass(frozen=True)
class FrameItem:
    """A frame as input.

    Args:
        meta: Where it came from.
        boxes_xyxy: `[M, 4]`, input pixels.
        labels: `[M]`, of the data's classes.
        is_clear: Whether it is known to show nothing beyond its boxes.
        annotated_for: Labels that it was annotated for; None: all.
        pixels: `[3, S, S]` uint8; None where they are skipped.
        key: Of a cache, "" where none is asked for.
    """

    meta: SampleMeta
    boxes_xyxy: Tensor
    labels: Tensor
    is_clear: bool
    annotated_for: tuple[int, ...] | None
    pixels: Tensor | None = None
    key: str = ""


@dataclass(frozen=True)
class ClassItem:
    """Reference photos of one class as input.

    Args:
        label: Of the data's classes.
        masks: `[K, S, S]` bool, foreground; all False where it is unknown.
        keys: One for each photo; unequal where a photo was changed at random.
        pixels: `[K, 3, S, S]` uint8; None where they are skipped.
    """

    label: int
    masks: Tensor
    keys: tuple[str, ...]
    pixels: Tensor | None = None


@dataclass(frozen=True)
class TripletItem:
    """A loaded triplet; see `draws.Triplet`."""

    anchor: int
    positive: FrameItem
    negative: FrameItem
    is_background: bool


@dataclass(frozen=True)
class EpisodeSample:
    """An episode, or a part of one for evaluation or a cache.

    Args:
        classes: Photos of ways and others.
        frames: Detection items.
        triplets: Triplet items.
        asked: For each frame, positive and negative, in this order, the labels it is searched for.
        bank: Photos of further classes, for which no frame is searched.
    """

    classes: tuple[ClassItem, ...] = ()
    frames: tuple[FrameItem, ...] = ()
    triplets: tuple[TripletItem, ...] = ()
    asked: tuple[tuple[int, ...], ...] = ()
    bank: tuple[ClassItem, ...] = ()
