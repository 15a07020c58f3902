"""A tiny detector with random weights and images for it, for the contract kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_cluster.images.example import SIDE, example_batches
from mlkit_cluster.yolo.adapter import write_random_detector
from mlkit_core.types import Example

if TYPE_CHECKING:
    from pathlib import Path


def example(folder: Path) -> Example:
    """Return options of an extractor over a random YOLOv8n of two classes, and its batches."""
    model = write_random_detector(folder / "random.pt", "yolov8n.yaml", num_classes=2)
    options = {"model": model, "image_size": SIDE, "device": "cpu"}
    return Example(options=options, args=(example_batches(folder),))
