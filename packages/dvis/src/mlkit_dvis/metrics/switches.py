"""Identities along annotated tracks, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_masks
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.results import InstanceTrack, TrackAnnotation

_OVERLAP = 0.5
COUNTED = 0.3
"""Score from which a track counts as reported: below it stand fillers that nobody would see."""


@dataclass(frozen=True)
class Identities:
    """How well identities are kept in one video.

    Args:
        switches: How often an annotated track is followed by another found track than before.
        missed: Frames in which a visible annotated track is followed by none.
        visible: Frames in which annotated tracks are visible, summed over them.
    """

    switches: int
    missed: int
    visible: int


def identities(
    found: Sequence[InstanceTrack],
    true: Sequence[TrackAnnotation],
    threshold: float = _OVERLAP,
    score: float = COUNTED,
) -> Identities:
    """Return switches and misses, whatever the labels; a switch is nearly that of CLEAR MOT.

    In each frame found and true masks are assigned by overlap; pairs of at most `threshold` do not
    count. Unlike the paper, what was followed before goes on where it can even across a gap.

    Source: Bernardin and Stiefelhagen, "CLEAR MOT metrics", 2008, section 2.1.

    Args:
        found: Several results of one row, with one mask and different labels, count once.
        true: Annotated tracks.
        threshold: Of the overlap.
        score: Tracks below it are left out.
    """
    reported = sorted((t for t in found if t.score >= score), key=lambda track: track.score)
    rows = list({_own(track): track for track in reported}.values())
    last: dict[int, int] = {}
    switches = missed = visible = 0
    frames = max((len(track.rles) for track in true), default=0)
    for t in range(frames):
        here = [(i, track.rles[t]) for i, track in enumerate(true) if track.rles[t] is not None]
        ours = [(row, track.rles[t]) for row, track in enumerate(rows) if track.rles[t] is not None]
        visible += len(here)
        if not ours or not here:
            missed += len(here)
            continue
        masks: list[Any] = [[rle for _, rle in side] for side in (here, ours)]
        iou = np.asarray(coco_masks.iou(masks[0], masks[1], [0] * len(ours)))
        kept = np.array([[last.get(i) == row for row, _ in ours] for i, _ in here], float)
        pairs = linear_sum_assignment(-np.where(iou > threshold, iou + kept, 0.0))
        good = [(a, b) for a, b in zip(*pairs, strict=True) if iou[a, b] > threshold]
        missed += len(here) - len(good)
        for a, b in good:
            instance, row = here[a][0], ours[b][0]
            switches += last.get(instance, row) != row
            last[instance] = row
    return Identities(switches, missed, visible)


def _own(track: InstanceTrack) -> tuple[object, ...]:
    """Return what two results of one row share; masks too, for tracks that name no row."""
    return track.row, *(None if rle is None else rle["counts"] for rle in track.rles)
