"""The extractor `yolo`: what a detector says of each image, and how wrong it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from mlkit_cluster.config import YoloExtractorConfig
from mlkit_cluster.images import categories
from mlkit_cluster.images.records import described
from mlkit_cluster.images.target import truths_of
from mlkit_cluster.kernel import Grid, Targets, TargetTable, pair_losses, prepare_row, to_canonical
from mlkit_cluster.yolo.adapter import load_detector
from mlkit_cluster.yolo.detections import place
from mlkit_cluster.yolo.metrics import image_metrics
from mlkit_core.errors import DataError
from mlkit_core.types import ImageRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from mlkit_cluster.images.annotations import GroundTruth
    from mlkit_cluster.kernel.raw import RawOutput
    from mlkit_cluster.yolo.adapter import Detector
    from mlkit_cluster.yolo.detections import Detections
    from mlkit_core.types import Batch, SampleMeta

_GRID = 4
_HALF = float(np.finfo(np.float16).max)
COMPONENTS = ("box", "cls", "dfl", "seg")


@dataclass(frozen=True)
class ImageLosses:
    """An image's own losses, all gains 1; None where they are not known or not defined.

    Args:
        losses: `box`, `cls`, `dfl`, `seg`.
        n_pos: Anchors to which an object was assigned.
        score_sum: What the losses were divided by, before it was raised to 1.
    """

    losses: Mapping[str, float | None]
    n_pos: int | None = None
    score_sum: float | None = None


class YoloExtractor:
    """Reads out a YOLO: embedding, maps, detections, and with labels its losses and metrics.

    The values of a record: `width`, `height`, `ratio`, `pad_x`, `pad_y`, `sha`; `gap`, level to
    `[C]` float32, the mean over the map that enters the head, and `embedding`, all of them in a
    row; `maps`, level to float16, or None; `detections`; `labels`, None where nothing is known;
    `losses`, `n_pos`, `score_sum` (see `ImageLosses`); `metrics` (see `image_metrics`).

    Args:
        model: An ultralytics checkpoint.
        image_size: Side of the square input, pixels.
        conf: Detections are more confident than this.
        iou: Overlap beyond which a weaker box of the same class is dropped.
        max_det: Most detections of an image.
        target_conf: Least confidence of a detection that is a target of distances.
        maps: "none", "grid4" (means over 4 x 4 fields), "full16" (all).
        device: As torch names it; "auto" takes a GPU where there is one.
        supercategories: YAML, group to list of classes; None: COCO's.
    """

    def __init__(
        self,
        model: str | Path,
        image_size: int = 640,
        conf: float = 0.25,
        iou: float = 0.45,
        max_det: int = 300,
        target_conf: float = 0.25,
        maps: str = "grid4",
        device: str = "auto",
        supercategories: str | Path | None = None,
    ) -> None:
        given = dict(locals())
        del given["self"]
        self.options = YoloExtractorConfig.model_validate(given)
        self.detector: Detector = load_detector(self.options.model, image_size, device)
        self.groups = categories.supercategories(self.detector.names, self.options.supercategories)

    def extract(self, batches: Iterable[Batch]) -> Iterator[ImageRecord]:
        """Yield one record for each image; labels arrive as `batch.target`.

        Raises:
            DataError: A label is of a class that the detector does not have.
            InputError: The images have another size.
        """
        for batch in batches:
            raw = self.detector(batch.inputs["image"])
            truths = truths_of(batch.target, batch.meta)
            options = self.options
            found = self.detector.detections(
                raw, conf=options.conf, iou=options.iou, max_det=options.max_det
            )
            for index, meta in enumerate(batch.meta):
                row = raw.row(index)
                yield self._record(row, meta, found[index], truths[index])

    def _record(
        self, raw: RawOutput, meta: SampleMeta, found: Detections, truth: GroundTruth | None
    ) -> ImageRecord:
        if meta.size is None or meta.letterbox is None:
            raise DataError(f"{meta.key}: meta does not say how the image became the input")
        if truth is not None:
            self._check_labels(truth, meta.key)
        own = self.losses(raw, truth)
        placed = place(found, meta.letterbox, meta.size)
        gap = {level: values[0].float().mean((1, 2)) for level, values in raw.maps.items()}
        means = {level: np.asarray(values.cpu(), np.float32) for level, values in gap.items()}
        values = {
            **described(meta),
            "gap": means,
            "embedding": np.concatenate([*means.values()]),
            "maps": self._maps(raw),
            "detections": placed,
            "labels": truth,
            "losses": dict(own.losses),
            "n_pos": own.n_pos,
            "score_sum": own.score_sum,
            "metrics": image_metrics(placed, truth, self.groups),
        }
        return ImageRecord(meta.key, values)

    def _check_labels(self, truth: GroundTruth, key: str) -> None:
        unknown = truth.labels[(truth.labels < 0) | (truth.labels >= self.detector.num_classes)]
        if len(unknown):
            raise DataError(
                f"{key}: a label of class {int(unknown[0])}, but the detector has "
                f"{self.detector.num_classes} classes",
                hint="give labels of the detector's classes, or `labels: none`",
            )

    def losses(self, raw: RawOutput, truth: GroundTruth | None) -> ImageLosses:
        """Return the losses of one image's raw output against its own labels."""
        if truth is None:
            return ImageLosses(dict.fromkeys(COMPONENTS))
        detector = self.detector
        boxes = to_canonical(truth.boxes_input, detector.image_size)
        masks = truth.masks if detector.is_segmenter else None
        if not detector.fast:
            said = detector.criterion(raw, boxes, truth.labels, masks)
            kept = {c: said.get(c) if len(truth.labels) or c == "cls" else None for c in COMPONENTS}
            return ImageLosses(kept)
        size, strides = detector.image_size, detector.strides
        grid = Grid(size, strides, detector.reg_max, detector.num_classes)
        starts = np.array([0, len(truth.labels)], np.int64)
        table = TargetTable(Targets(boxes, truth.labels, starts, masks), grid)
        found = pair_losses(prepare_row(raw.cpu(), grid), table)
        return ImageLosses(
            {component: _first(getattr(found, component)) for component in COMPONENTS},
            n_pos=int(found.n_pos[0]),
            score_sum=float(found.score_sum[0]),
        )

    def _maps(self, raw: RawOutput) -> dict[str, np.ndarray] | None:
        if self.options.maps == "none":
            return None
        kept: dict[str, np.ndarray] = {}
        for level, values in raw.maps.items():
            row = values[0].float()
            if self.options.maps == "grid4":
                row = functional.adaptive_avg_pool2d(row, _GRID)
            kept[level] = row.clamp(-_HALF, _HALF).to("cpu", torch.float16).numpy()
        return kept


def _first(values: Any) -> float | None:  # noqa: ANN401  # [1] or None
    if values is None or math.isnan(values[0]):
        return None
    return float(values[0])
