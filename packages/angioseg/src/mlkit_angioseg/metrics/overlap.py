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
    `best_threshold` is the one of 0.05, 0.10, … 0.95 with the greatest mean Dice, `dice_at_best`
    that Dice: of validation data it may be used on other data, of test data it flatters.

    Args:
        threshold: Probability from which a pixel is vessel.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
    """

    def __init__(self, threshold: float = 0.5, resamples: int = 1000, seed: int = 0) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        self.threshold, self.resamples, self.seed = threshold, resamples, seed
        self._rows: list[Row] = []
        self._curves: list[NDArray[np.float64]] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Score each image of a batch.

        Raises:
            DataError: A prediction is no binary mask, or not of its target's size.
        """
        for index, (prediction, meta) in enumerate(zip(predictions, batch.meta, strict=True)):
            target = original_mask(batch, index)
            if not isinstance(prediction, MaskPrediction) or prediction.probabilities.ndim != 2:
                raise DataError(f"{meta.key}: mask-overlap scores one class `[H, W]`")
            probabilities = prediction.probabilities.float().cpu().numpy()
            if probabilities.shape != target.shape:
                raise DataError(
                    f"{meta.key}: prediction is {probabilities.shape}, target {target.shape}"
                )
            row: Row = {"key": meta.key, "patient": meta.group or meta.key, **meta.extra}
            self._rows.append(row | self._scores(probabilities, target))
            self._curves.append(dice_by_threshold(probabilities, target))

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
        curve = np.mean(self._curves, axis=0)
        result["best_threshold"] = float(THRESHOLDS[curve.argmax()])
        result["dice_at_best"] = float(curve.max())
        return result

    def _scores(
        self, probabilities: NDArray[np.floating], target: NDArray[np.bool_]
    ) -> dict[str, float]:
        predicted = probabilities >= self.threshold
        return {
            **overlap_scores(predicted, target),
            "cldice": centreline_dice(predicted, target),
            "hd95_px": surface_distance_95(predicted, target),
            **ranking_scores(probabilities, target),
        }


def original_mask(batch: Batch, index: int) -> NDArray[np.bool_]:
    """Return the target mask of one row in original pixels.

    Raises:
        DataError: The batch only has a mask that was resized, which would flatter the score.
    """
    target, meta = batch.target, batch.meta[index]
    if isinstance(target, VesselTarget) and target.original:
        return target.original[index].cpu().numpy().astype(bool)
    box = meta.letterbox or Letterbox(scale=1.0, size=meta.size or (0, 0))
    if not isinstance(target, MaskTarget) or meta.size is None or box.scale != 1.0:
        raise DataError(
            f"{meta.key}: mask-overlap needs the mask at original resolution, "
            f"got {type(target).__name__} at scale {box.scale:g}"
        )
    shown = Letterbox(scale=1.0, size=meta.size, offset=box.offset).content
    return target.masks[index, *shown].cpu().numpy() > 0


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
