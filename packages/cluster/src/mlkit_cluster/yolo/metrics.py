"""How an image's detections meet its labels: one-to-one matches and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.kernel.masks import decode_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.images.annotations import GroundTruth
    from mlkit_cluster.images.categories import Supercategories
    from mlkit_cluster.yolo.detections import Detections

MIN_IOU = 0.5
_OF_LABELS = (
    "mean_iou", "mean_conf_matched", "hit_freq", "precision", "dice_score", "n_gt", "n_match",
    "flag_cat", "flag_supercat",
)  # fmt: skip
Value = float | int | None


@dataclass(frozen=True)
class Match:
    """A detection and the object it is, by their places, with the overlap of their boxes."""

    prediction: int
    truth: int
    iou: float


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union of xyxy boxes, `[n, m]` float64."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / np.maximum(areas - shared, np.finfo(np.float64).tiny)


def match_boxes(
    predictions: Detections, truth: GroundTruth, min_iou: float = MIN_IOU
) -> list[Match]:
    """Return one-to-one matches within a class, taken by falling overlap.

    Equal overlaps go to the more confident detection, then to the earlier object.
    """
    iou = box_iou(predictions.boxes, truth.boxes)
    iou[predictions.labels[:, None] != truth.labels[None]] = 0
    pairs = np.argwhere(iou >= min_iou)  # by detection, then object
    order = np.argsort(-iou[pairs[:, 0], pairs[:, 1]], kind="stable")
    free_p, free_t = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    found: list[Match] = []
    for p, t in pairs[order].tolist():
        if free_p[p] and free_t[t]:
            free_p[p] = free_t[t] = False
            found.append(Match(p, t, float(iou[p, t])))
    return found


def image_metrics(
    predictions: Detections, truth: GroundTruth | None, groups: Supercategories
) -> dict[str, Value]:
    """Return an image's metrics; what needs labels is None where there are none.

    `mean_conf` is over all detections, None without any. With neither object nor detection
    `mean_iou`, `hit_freq` and `precision` are 1; with objects alone they are 0; with detections
    alone `hit_freq` is None and the others 0. `dice_score` needs masks and a match.
    `flag_cat` is the most frequent class (the lowest of several), -1 without objects, and
    `flag_supercat` its group.
    """
    count = len(predictions.labels)
    found: dict[str, Value] = {
        "mean_conf": float(predictions.scores.mean(dtype=np.float64)) if count else None,
        "n_pred": count,
    }
    if truth is None:
        return found | dict.fromkeys(_OF_LABELS)
    matches = match_boxes(predictions, truth)
    objects, hits = len(truth.labels), len(matches)
    flag = int(np.bincount(truth.labels).argmax()) if objects else -1
    empty = 1.0 if not objects and not count else 0.0
    return found | {
        "mean_iou": _mean([m.iou for m in matches]) if hits else empty,
        "mean_conf_matched": _mean([float(predictions.scores[m.prediction]) for m in matches]),
        "hit_freq": hits / objects if objects else (None if count else 1.0),
        "precision": hits / count if count else empty,
        "dice_score": _mean_dice(predictions, truth, matches),
        "n_gt": objects,
        "n_match": hits,
        "flag_cat": flag,
        "flag_supercat": groups.of(flag),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _mean_dice(
    predictions: Detections, truth: GroundTruth, matches: Sequence[Match]
) -> float | None:
    if predictions.masks is None or truth.masks is None:
        return None
    pairs = [(predictions.masks[m.prediction], truth.masks[m.truth]) for m in matches]
    return _mean([dice(decode_mask(p), decode_mask(g)) for p, g in pairs])


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return twice the overlap of two bool masks over their sum; 0 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 0.0
