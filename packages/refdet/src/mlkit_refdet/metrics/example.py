"""Tiny options and a few images for each metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_core.types import Batch, BoxPrediction, Example, Letterbox, SampleMeta
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from pathlib import Path

_TRUE = torch.tensor([8.0, 8.0, 24.0, 24.0])
_FOUND = torch.tensor([[4.0, 4.0, 12.0, 13.0], [20.0, 2.0, 30.0, 9.0]])
_SCORES = torch.tensor([0.9, 0.4])


def _updates() -> tuple[tuple[list[BoxPrediction], Batch], ...]:
    """Return six images at half their size, asked about two classes; every other is empty."""
    updates = []
    for index in range(6):
        empty = index % 2 == 1
        labels = torch.tensor([[-1 if empty else index % 3 % 2]])
        target = ReferenceTarget(
            boxes_xyxy=_TRUE.repeat(1, 1, 1) * 2,
            labels=labels,
            class_ids=torch.tensor([2, 0]),
            category_ids=torch.arange(2),
            background=torch.tensor([empty]),
        )
        extra = {
            "objects": index % 4,
            "video_id": f"video{index % 2}",
            "frame": index,
            "episode": index // 3,
        }
        meta = SampleMeta(
            key=f"frame{index}",
            size=(16, 16),
            letterbox=Letterbox(scale=4.0, size=(64, 64)),
            extra=extra,
        )
        batch = Batch(
            inputs={"asked": torch.tensor([[0.0, 1.0]])},
            meta=(meta,),
            target=target,
            valid={"support": torch.ones(2, 3, dtype=torch.bool)},
        )
        labels = torch.tensor([index % 2, 0])
        found = BoxPrediction(_FOUND + index / 8, _SCORES - index / 20, labels)
        updates.append(([found], batch))
    return tuple(updates)


def example(folder: Path) -> Example:
    """Return images that hold hits, misses and false alarms, and three classes."""
    del folder
    return Example(args=_updates(), context={"num_classes": 3})
