"""YouTube-VIS' average precision: tracks are compared over all frames of a video.

Source: Yang, Fan and Xu, "Video Instance Segmentation", ICCV 2019, section 5; the matching and
the 101-point interpolation are COCO's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_masks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlkit_dvis.results import InstanceTrack, TrackAnnotation

    Floats = npt.NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = (1, 10, 100)  # tracks of a video and class for AR1, AR10 and AP
# Mean area of a track over its visible frames, pixels.
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 128.0**2),
    "medium": (128.0**2, 256.0**2),
    "large": (256.0**2, 1e10),
}


def track_iou(
    found: Sequence[Sequence[Mapping[str, Any] | None]],
    true: Sequence[Sequence[Mapping[str, Any] | None]],
) -> Floats:
    """Return intersection over union summed over frames, `[found, true]`; no mask is an empty one.

    Args:
        found: For each track one RLE or None for each frame.
        true: Likewise, of as many frames.
    """
    frames = max((len(rles) for rles in (*found, *true)), default=0)
    overlap = np.zeros((len(found), len(true)))
    areas = np.zeros(len(found)), np.zeros(len(true))
    for t in range(frames):
        here = [_at(rles, t) for rles in found], [_at(rles, t) for rles in true]
        sizes = tuple(_areas(rles) for rles in here)
        areas[0][:] += sizes[0]
        areas[1][:] += sizes[1]
        rows, columns = (np.flatnonzero(size) for size in sizes)
        if not len(rows) or not len(columns):
            continue
        pairs = [
            [side[i] for i in index] for side, index in zip(here, (rows, columns), strict=True)
        ]
        iou = np.asarray(coco_masks.iou(pairs[0], pairs[1], [0] * len(columns)))  # pyright: ignore[reportArgumentType]
        both = sizes[0][rows][:, None] + sizes[1][columns]
        # i = u * iou and i + u = both, in whole pixels: a ratio on a threshold must not fall short.
        overlap[np.ix_(rows, columns)] += np.rint(iou * both / (1 + iou))
    union = areas[0][:, None] + areas[1] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _at(rles: Sequence[Mapping[str, Any] | None], frame: int) -> Mapping[str, Any] | None:
    return rles[frame] if frame < len(rles) else None


def _areas(rles: Sequence[Mapping[str, Any] | None]) -> Floats:
    filled = [rle for rle in rles if rle is not None]
    values = iter(np.asarray(coco_masks.area(filled), np.float64)) if filled else iter(())  # pyright: ignore[reportArgumentType]
    return np.array([next(values) if rle is not None else 0.0 for rle in rles])


def mean_area(rles: Sequence[Mapping[str, Any] | None]) -> float:
    """Return a track's mean area over the frames in which it is visible, pixels."""
    areas = _areas(rles)
    return float(areas[areas > 0].mean()) if (areas > 0).any() else 0.0


@dataclass(frozen=True)
class VideoScores:
    """What one video says of one class; plain arrays, so that ranks can exchange them.

    Args:
        scores: `[D]`, best first, at most 100.
        matched: Area range to `[10, D]` bool, by threshold.
        ignored: Area range to `[10, D]` bool: neither right nor wrong.
        true: Area range to the number of annotated tracks that count.
    """

    scores: Floats
    matched: dict[str, npt.NDArray[np.bool_]]
    ignored: dict[str, npt.NDArray[np.bool_]]
    true: dict[str, int]


def score_video(
    found: Sequence[InstanceTrack], true: Sequence[TrackAnnotation], label: int
) -> VideoScores | None:
    """Return one class's matches in one video; None where it is neither found nor annotated."""
    ours = sorted((f for f in found if f.label == label), key=lambda f: -f.score)[: MOST[-1]]
    theirs = [t for t in true if t.label == label]
    if not ours and not theirs:
        return None
    iou = track_iou([f.rles for f in ours], [t.rles for t in theirs])
    crowd = np.array([t.is_crowd for t in theirs], bool)
    for column in np.flatnonzero(crowd):
        iou[:, column] = _crowd_iou(ours, theirs[column])
    areas = np.array([mean_area(t.rles) for t in theirs])
    sizes = np.array([mean_area(f.rles) for f in ours])
    matched, ignored, counts = {}, {}, {}
    for name, (low, high) in AREAS.items():
        left_out = crowd | (areas < low) | (areas > high)
        hits, aside = _match(iou, left_out, crowd)
        outside = (sizes < low) | (sizes > high)
        matched[name], ignored[name] = hits, aside | (~hits & outside)
        counts[name] = int((~left_out).sum())
    return VideoScores(np.array([f.score for f in ours]), matched, ignored, counts)


def _crowd_iou(ours: Sequence[InstanceTrack], crowd: TrackAnnotation) -> Floats:
    """Return intersection by the found track's own area, as COCO does for crowds."""
    values: list[float] = []
    for track in ours:
        inside = area = 0.0
        for rle, other in zip(track.rles, crowd.rles, strict=True):
            if rle is None:
                continue
            own = float(coco_masks.area(rle))  # pyright: ignore[reportArgumentType]
            area += own
            if other is not None:
                share: Any = coco_masks.iou([rle], [other], [1])  # pyright: ignore[reportArgumentType]
                inside += np.rint(own * float(share[0, 0]))
        values.append(inside / area if area else 0.0)
    return np.array(values)


def _match(
    iou: Floats, left_out: npt.NDArray[np.bool_], crowd: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which found tracks are right, and which do not count, `[10, D]` each.

    Greedy by score: each takes the free annotation of the largest overlap; those that are left out
    only where none that counts is good enough.
    """
    hits = np.zeros((len(THRESHOLDS), len(iou)), bool)
    aside = np.zeros_like(hits)
    order = np.argsort(left_out, kind="stable")
    for level, threshold in enumerate(THRESHOLDS):
        free = np.ones(iou.shape[1], bool)
        for row in range(len(iou)):
            best, chosen = min(threshold, 1 - 1e-10), -1
            for column in order:
                if not free[column] and not crowd[column]:
                    continue
                if chosen >= 0 and not left_out[chosen] and left_out[column]:
                    break
                if iou[row, column] >= best:
                    best, chosen = iou[row, column], column
            if chosen >= 0:
                free[chosen] = False
                hits[level, row], aside[level, row] = True, left_out[chosen]
    return hits, aside


def precision_and_recall(
    videos: Sequence[VideoScores], area: str = "all", most: int = MOST[-1]
) -> tuple[Floats, Floats] | None:
    """Return one class's interpolated precision `[10, 101]` and largest recall `[10]`.

    None where nothing is annotated.
    """
    total = sum(video.true[area] for video in videos)
    if not total:
        return None
    scores = np.concatenate([video.scores[:most] for video in videos])
    order = np.argsort(-scores, kind="mergesort")
    hits = np.concatenate([v.matched[area][:, :most] for v in videos], 1)[:, order]
    aside = np.concatenate([v.ignored[area][:, :most] for v in videos], 1)[:, order]
    right = (hits & ~aside).cumsum(1, dtype=np.float64)
    wrong = (~hits & ~aside).cumsum(1, dtype=np.float64)
    precision = np.zeros((len(THRESHOLDS), len(RECALLS)))
    recall = np.zeros(len(THRESHOLDS))
    for level in range(len(THRESHOLDS)):
        if not len(scores):
            continue
        reached = right[level] / total
        exact = right[level] / (right[level] + wrong[level] + np.spacing(1))
        envelope = np.maximum.accumulate(exact[::-1])[::-1]
        places = np.searchsorted(reached, RECALLS, side="left")
        inside = places < len(envelope)
        precision[level, inside] = envelope[places[inside]]
        recall[level] = reached[-1]
    return precision, recall
