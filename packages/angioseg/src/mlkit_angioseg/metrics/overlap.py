"""Metric `mask-overlap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_angioseg.metrics.bootstrap import patient_interval
from mlkit_angioseg.metrics.scores import (
    THRESHOLDS,
    centreline_dice,
    dice_by_threshold,
    overlap_scores,
    ranking_scores,
    surface_distance_95,
)
from mlkit_angioseg.targets import VesselTarget
from mlkit_core.errors import DataError
from mlkit_core.types import (
    Batch,
    Example,
    Letterbox,
    MaskPrediction,
    MaskTarget,
    SampleMeta,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mlkit_core.types import Prediction

Row = dict[str, "str | float | int | bool | None"]
State = tuple[list[Row], list[list[float]]]
SCORES = (
    "dice", "iou", "cldice", "sensitivity", "specificity", "precision", "hd95_px", "auc", "ap",
)  # fmt: skip


class MaskOverlap:
    """Scores of each image at its original resolution, their mean over images, and intervals.

    `compute` gives the mean of each score over images, never over batches, and `<score>_low` and
    `<score>_high`: the 95 % interval of a bootstrap over patients, where there are two or more.
    Pixels that a target calls not valid are left out of every score; skeletons and edges are those
    of what is left.

    `best_threshold` is the one of 0.05, 0.10, … 0.95 with the greatest mean Dice, `dice_at_best`
    that Dice: of validation data it may be used on other data, of test data it flatters.

    Of several classes, all scores are of vessel (no background) against background, and
    `dice_<class>` is beside them, of the most probable class; an image without that class in
    prediction and target is left out of its mean. `dice_classes` is the mean over classes.

    Args:
        threshold: Probability from which a pixel is vessel.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
        classes: Names; of several the first is the background.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        resamples: int = 1000,
        seed: int = 0,
        classes: Sequence[str] = (),
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        self.threshold, self.resamples, self.seed = threshold, resamples, seed
        self.classes = tuple(classes) if len(classes) > 1 else ()
        self._rows: list[Row] = []
        self._curves: list[NDArray[np.float64]] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Score each image of a batch.

        Raises:
            DataError: A prediction is no mask, of other classes, or not of its target's size.
        """
        for index, (prediction, meta) in enumerate(zip(predictions, batch.meta, strict=True)):
            labels = original_labels(batch, index)
            probabilities = self._probabilities(prediction, labels, meta.key)
            vessel = probabilities if probabilities.ndim == 2 else 1 - probabilities[0]
            counts = original_valid(batch, index, labels)
            row: Row = {"key": meta.key, "patient": meta.group or meta.key, **meta.extra}
            row |= self._scores(vessel, labels > 0, counts)
            if probabilities.ndim == 3:
                found = probabilities.argmax(0)[counts]
                row |= class_dice(found, labels[counts], self.classes)
            self._rows.append(row)
            self._curves.append(dice_by_threshold(vessel[counts], labels[counts] > 0))

    def rows(self) -> list[Row]:
        """Return one mapping for each image: key, patient, angles and all scores; sorted by key."""
        return sorted(self._rows, key=lambda row: str(row["key"]))

    def state(self) -> State:
        """Return the rows of this rank, and each image's Dice by threshold."""
        return list(self._rows), [curve.tolist() for curve in self._curves]

    def merge(self, state: State) -> None:
        """Add another rank's rows."""
        rows, curves = state
        self._rows += rows
        self._curves += [np.asarray(curve) for curve in curves]

    def compute(self) -> Mapping[str, float]:
        """Return means and intervals of all scores, with the numbers of images and patients."""
        rows = self.rows()
        if not rows:
            return {}
        patients = [str(row["patient"]) for row in rows]
        result = {"images": float(len(rows)), "patients": float(len(set(patients)))}
        for name in SCORES:
            values = np.array([float(row[name] or 0.0) for row in rows])
            if np.isnan(values).all():
                continue
            result[name] = float(np.nanmean(values))
            interval = patient_interval(values, patients, self.resamples, self.seed)
            if interval is not None:
                result[f"{name}_low"], result[f"{name}_high"] = interval
        result |= self._class_means(rows)
        curve = np.mean(self._curves, axis=0)
        result["best_threshold"] = float(THRESHOLDS[curve.argmax()])
        result["dice_at_best"] = float(curve.max())
        return result

    def _probabilities(
        self, prediction: Prediction, labels: NDArray[np.uint8], key: str
    ) -> NDArray[np.float32]:
        """Return `[H, W]`, or `[C, H, W]` of the metric's classes, of the target's size."""
        if not isinstance(prediction, MaskPrediction):
            raise DataError(f"{key}: mask-overlap scores masks, got {type(prediction).__name__}")
        values = prediction.probabilities.float().cpu().numpy()
        if values.ndim == 3 and len(values) != len(self.classes):
            raise DataError(f"{key}: {len(values)} classes are predicted, of {len(self.classes)}")
        if values.shape[-2:] != labels.shape:
            raise DataError(f"{key}: prediction is {values.shape}, target {labels.shape}")
        return values

    def _class_means(self, rows: Sequence[Row]) -> dict[str, float]:
        """Return the mean Dice of each class over the images that show it, and their mean."""
        means: dict[str, float] = {}
        for name in self.classes[1:]:
            values = np.array([float(row.get(f"dice_{name}", np.nan) or 0.0) for row in rows])
            if not np.isnan(values).all():
                means[f"dice_{name}"] = float(np.nanmean(values))
        return means | ({"dice_classes": float(np.mean([*means.values()]))} if means else {})

    def _scores(
        self,
        probabilities: NDArray[np.floating],
        target: NDArray[np.bool_],
        counts: NDArray[np.bool_],
    ) -> dict[str, float]:
        predicted, target = (probabilities >= self.threshold) & counts, target & counts
        return {
            **overlap_scores(predicted[counts], target[counts]),
            "cldice": centreline_dice(predicted, target),
            "hd95_px": surface_distance_95(predicted, target),
            **ranking_scores(probabilities[counts], target[counts]),
        }


def class_dice(
    found: NDArray[np.integer], labels: NDArray[np.integer], classes: Sequence[str]
) -> dict[str, float]:
    """Return `dice_<class>` of label maps of one shape; NaN where both are without a class."""
    scores: dict[str, float] = {}
    for number, name in enumerate(classes[1:], 1):
        a, b = found == number, labels == number
        size = int(a.sum() + b.sum())
        scores[f"dice_{name}"] = 2 * float((a & b).sum()) / size if size else float("nan")
    return scores


def original_mask(batch: Batch, index: int) -> NDArray[np.bool_]:
    """Return the target mask of one row in original pixels; of label maps, all that is vessel.

    Raises:
        DataError: As `original_labels`.
    """
    return original_labels(batch, index) > 0


def original_labels(batch: Batch, index: int) -> NDArray[np.uint8]:
    """Return the target's labels of one row in original pixels, `[H, W]`; 0 is background.

    Raises:
        DataError: The batch only has a mask that was resized, which would flatter the score.
    """
    target, meta = batch.target, batch.meta[index]
    if isinstance(target, VesselTarget) and target.original:
        return target.original[index].cpu().numpy().astype(np.uint8)
    box = meta.letterbox or Letterbox(scale=1.0, size=meta.size or (0, 0))
    if not isinstance(target, MaskTarget) or meta.size is None or box.scale != 1.0:
        raise DataError(
            f"{meta.key}: mask-overlap needs the mask at original resolution, "
            f"got {type(target).__name__} at scale {box.scale:g}"
        )
    shown = Letterbox(scale=1.0, size=meta.size, offset=box.offset).content
    return target.masks[index, *shown].cpu().numpy().astype(np.uint8)


def original_valid(batch: Batch, index: int, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels of one row's original labels `[H, W]` count."""
    target = batch.target
    if isinstance(target, VesselTarget) and target.original_valid:
        return target.original_valid[index].cpu().numpy().astype(bool)
    return np.ones(labels.shape, dtype=bool)


def example(folder: Path) -> Example:
    """Return tiny options, and predictions with their batch for each of three frames."""
    updates = []
    for index in range(3):
        masks = torch.zeros(1, 8, 8)
        masks[:, 2 : 4 + index] = 1
        meta = SampleMeta(key=f"frame{index}", size=(8, 8), group=f"P{index}")
        batch = Batch(inputs={}, meta=(meta,), target=MaskTarget(masks), kind="mask")
        shifted = masks.roll(index, 2) * 0.8 + 0.1
        updates.append(([MaskPrediction(shifted[0])], batch))
    return Example(options={"resamples": 10}, args=tuple(updates))
