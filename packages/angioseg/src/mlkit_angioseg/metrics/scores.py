"""Scores of one predicted vessel mask against one target mask, both `[H, W]`.

Those that ask nothing about neighbours also take the pixels that count alone, `[N]`.

One rule for what divides by zero: both masks empty is a perfect score (1, or a distance of 0), only
one of them empty is the worst (0, or the image's diagonal). Nothing is left out of a mean for it,
except AUC and AP, which have no meaning where a target holds a single class (NaN).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.morphology import skeletonize

if TYPE_CHECKING:
    from numpy.typing import NDArray


THRESHOLDS = np.arange(1, 20) / 20  # 0.05 to 0.95


def dice_by_threshold(
    probabilities: NDArray[np.floating], target: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the Dice of an image at each of `THRESHOLDS`, `[19]`; both empty is 1.

    Args:
        probabilities: `[H, W]`.
        target: `[H, W]`.
    """
    edges = np.concatenate(([-np.inf], THRESHOLDS, [np.inf]))
    every = np.histogram(probabilities, edges)[0]
    vessel = np.histogram(probabilities[target], edges)[0]
    found, hit = (counts[::-1].cumsum()[::-1][1:] for counts in (every, vessel))
    total = found + target.sum()
    return np.where(total > 0, 2 * hit / np.maximum(total, 1), 1.0)


def overlap_scores(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> dict[str, float]:
    """Return dice, iou, sensitivity, specificity and precision, each 0..1."""
    both = int(np.count_nonzero(predicted & target))
    only_predicted = int(np.count_nonzero(predicted)) - both
    only_target = int(np.count_nonzero(target)) - both
    neither = predicted.size - both - only_predicted - only_target
    return {
        "dice": _ratio(2 * both, 2 * both + only_predicted + only_target, predicted, target),
        "iou": _ratio(both, both + only_predicted + only_target, predicted, target),
        "sensitivity": _ratio(both, both + only_target, predicted, target),
        "specificity": _ratio(neither, neither + only_predicted, ~predicted, ~target),
        "precision": _ratio(both, both + only_predicted, predicted, target),
    }


def centreline_dice(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Return clDice: the harmonic mean of how much of each skeleton lies in the other mask.

    Source: Shit et al., "clDice", CVPR 2021, eq. 1 and 3, with hard skeletons.
    """
    skeleton, target_skeleton = skeletonize(predicted), skeletonize(target)
    precise = _ratio(int((skeleton & target).sum()), int(skeleton.sum()), predicted, target)
    sensitive = _ratio(
        int((target_skeleton & predicted).sum()), int(target_skeleton.sum()), predicted, target
    )
    return 2 * precise * sensitive / (precise + sensitive) if precise + sensitive else 0.0


def surface_distance_95(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Return the 95th percentile Hausdorff distance of the masks' edges, in pixels.

    The larger of the two directed percentiles, as MONAI has it. An edge pixel is one that a
    4-neighbour outside the mask, or the image's border, touches.
    """
    if not predicted.any() or not target.any():
        return 0.0 if predicted.any() == target.any() else math.hypot(*target.shape)
    edges, target_edges = _edges(predicted), _edges(target)
    forth = np.asarray(distance_transform_edt(~target_edges))[edges]
    back = np.asarray(distance_transform_edt(~edges))[target_edges]
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def ranking_scores(
    probabilities: NDArray[np.floating], target: NDArray[np.bool_]
) -> dict[str, float]:
    """Return auc (area under the ROC curve) and ap (average precision), free of a threshold.

    Equal probabilities count as one threshold: half a win in auc, one step in ap.
    """
    labels = target.ravel()
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return {"auc": math.nan, "ap": math.nan}
    order = np.argsort(-probabilities.ravel(), kind="stable")
    ranked = probabilities.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)  # end of each run of ties
    hits = np.cumsum(labels[order])[last]
    misses = last + 1 - hits
    found, alarms = np.append(0, hits / positives), np.append(0, misses / negatives)
    precision = hits / (last + 1)
    return {
        "auc": float(np.trapezoid(found, alarms)),
        "ap": float(np.sum(np.diff(found) * precision)),
    }


def _ratio(part: int, whole: int, predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    if whole:
        return part / whole
    return 1.0 if predicted.any() == target.any() else 0.0


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~binary_erosion(mask)
