"""COCO's average precision of frames, by faster-coco-eval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlkit_refdet.metrics.frames import AskedFrame, Boxes

SMALL, MEDIUM = 32.0**2, 96.0**2  # COCO's borders, in original pixels
SIZES = ("all", "small", "medium", "large")
_RANGES = ([0.0, 1e10], [0.0, SMALL], [SMALL, MEDIUM], [MEDIUM, 1e10])


@dataclass(frozen=True)
class CocoScores:
    """COCO's tables; NaN where no true box is of that kind (COCO writes -1).

    Args:
        classes: `[K]`, class indices with a true box or asked of a frame, ascending.
        precision: `[10, K, 4]`, average precision at IoU .5, .55 … .95, by class and size.
        recall: `[10, K, 4, 3]`, greatest recall, the last axis with 1, 10 and all boxes.
    """

    classes: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def ap(self, size: str = "all", level: int | None = None, kept: Sequence[int] = ()) -> float:
        """Return mean average precision.

        Args:
            size: One of `SIZES`.
            level: 0 for IoU .5, 5 for .75; None for the mean over all ten.
            kept: Rows of `classes`; none: all of them.
        """
        table = self.precision[..., SIZES.index(size)]  # [10, K]
        table = table if level is None else table[[level]]
        return _mean(table[:, list(kept)] if kept else table)

    def ar(self, size: str = "all", most: int = 2, kept: Sequence[int] = ()) -> float:
        """Return mean greatest recall; `most` 0, 1 or 2 for 1, 10 or all boxes."""
        table = self.recall[..., SIZES.index(size), most]  # [10, K]
        return _mean(table[:, list(kept)] if kept else table)


def _mean(table: NDArray[np.float64]) -> float:
    return float(np.nanmean(table)) if not np.isnan(table).all() else float("nan")


def coco_scores(frames: Sequence[AskedFrame], max_boxes: int = 100) -> CocoScores:
    """Return COCO's tables over frames.

    A class counts false alarms in every frame that was asked about it, and in no other.

    Source: Lin et al., "Microsoft COCO", ECCV 2014, and its published evaluation code.

    Args:
        frames: In any order; ties of scores are settled by a frame's own content.
        max_boxes: Found boxes that count of one image and class, best first.
    """
    frames = sorted(frames, key=lambda frame: frame.order)
    classes = tuple(sorted({label for frame in frames for label in frame.asked}))
    if not frames or not classes:
        return CocoScores(classes, np.full((10, 0, 4), np.nan), np.full((10, 0, 4, 3), np.nan))
    truth = COCO(_dataset(frames, classes))
    found = truth.loadRes(
        [entry for i, frame in enumerate(frames, 1) for entry in _entries(frame.found, i)]
    )
    task: Any = COCOeval_faster(truth, found, "bbox")
    task.params.maxDets = [1, 10, max_boxes]
    task.params.areaRng, task.params.areaRngLbl = [list(r) for r in _RANGES], list(SIZES)
    task.evaluate()
    task.accumulate()
    precision = np.asarray(task.eval["precision"], float)[..., -1].copy()  # [10, 101, K, 4]
    recall = np.asarray(task.eval["recall"], float).copy()  # [10, K, 4, 3]
    precision[precision < 0], recall[recall < 0] = np.nan, np.nan
    return CocoScores(classes, precision.mean(1), recall)


def _dataset(frames: Sequence[AskedFrame], classes: Sequence[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, frame in enumerate(frames, 1):
        for entry, crowd in zip(_entries(frame.true, image), frame.true.crowd, strict=True):
            width, height = entry["bbox"][2:]
            number = len(annotations) + 1  # COCO's code takes id 0 for "no match"
            ours = {"id": number, "area": width * height, "iscrowd": int(crowd)}
            annotations.append(entry | ours)
    return {
        "images": [{"id": image} for image in range(1, len(frames) + 1)],
        "categories": [{"id": label, "name": str(label)} for label in classes],
        "annotations": annotations,
    }


def _entries(boxes: Boxes, image: int) -> list[dict[str, Any]]:
    rows = zip(boxes.xyxy.tolist(), boxes.classes.tolist(), boxes.scores.tolist(), strict=True)
    return [
        {
            "image_id": image,
            "category_id": label,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
        }
        for (x0, y0, x1, y1), label, score in rows
    ]
