"""The metric `box-map`: COCO's average precision and recall of boxes."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from mlkit_refdet.metrics.coco import SIZES, CocoScores, coco_scores
from mlkit_refdet.metrics.frames import AskedFrame, asked_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Batch, Prediction

LOG = logging.getLogger("mlkit")


class BoxMap:
    """Gathers images; mAP is over all of them together, by COCO's rules.

    Every image is a set of its own: a box found in one never matches a box of another. Only the
    classes asked of an image count there, and one asked in vain counts its false alarms. A box
    is small below 32 x 32 original pixels, large from 96 x 96.

    Args:
        max_boxes: Boxes that count of one image and class, best first.
        classes: Names, for the table; None: their indices.
    """

    def __init__(self, max_boxes: int = 100, classes: Sequence[str] | None = None) -> None:
        self.max_boxes, self._names = max_boxes, classes
        self._frames: list[AskedFrame] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the images of a batch."""
        self._frames += asked_frames("box-map", predictions, batch)

    def state(self) -> list[AskedFrame]:
        """Return the images so far."""
        return list(self._frames)

    def merge(self, state: Sequence[AskedFrame]) -> None:
        """Add another rank's images."""
        self._frames += state

    def compute(self) -> Mapping[str, float]:
        """Return AP and AR. What no true box can answer is left out, and the log says so."""
        scores = coco_scores(self._frames, self.max_boxes)
        values = {"map50": scores.ap(level=0), "map75": scores.ap(level=5), "map": scores.ap()}
        for size in SIZES[1:]:
            values |= {f"map_{size}": scores.ap(size), f"map50_{size}": scores.ap(size, 0)}
        values |= {"ar1": scores.ar(most=0), "ar10": scores.ar(most=1), "ar": scores.ar()}
        values |= {f"ar_{size}": scores.ar(size) for size in SIZES[1:]}
        missing = [name for name, value in values.items() if math.isnan(value)]
        if missing:
            LOG.info("box-map: no true box of that kind, left out: %s", ", ".join(missing))
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        true = sum(len(frame.true.classes) for frame in self._frames)
        return {**known, "images": float(len(self._frames)), "objects": float(true)}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each class that was asked: AP, AR, and how often it was to be seen."""
        scores = coco_scores(self._frames, self.max_boxes)
        return [self._row(scores, index) for index in range(len(scores.classes))]

    def _row(self, scores: CocoScores, index: int) -> dict[str, Any]:
        label, kept = scores.classes[index], [index]
        asked = [frame for frame in self._frames if label in frame.asked]
        true = [int((frame.true.classes == label).sum()) for frame in asked]
        values = {
            "map50": scores.ap(level=0, kept=kept),
            "map": scores.ap(kept=kept),
            "ar": scores.ar(kept=kept),
        }
        return {
            "metric": "box-map",
            "key": self._names[label] if self._names else str(label),
            **{name: "" if math.isnan(v) else round(v, 4) for name, v in values.items()},
            "objects": sum(true),
            "images_with": sum(count > 0 for count in true),
            "images_without": sum(count == 0 for count in true),
        }
