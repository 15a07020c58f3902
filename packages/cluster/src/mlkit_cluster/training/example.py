"""Options of the trainer for the contract kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.types import Example

if TYPE_CHECKING:
    from pathlib import Path


def example(folder: Path) -> Example:
    """Return tiny options: random weights, one epoch of small images."""
    del folder
    options = {"model": "yolov8n.yaml", "epochs": 1, "batch_size": 2, "image_size": 64}
    return Example(options={**options, "device": "cpu", "workers": 0})
