"""The metric `track-ap`: YouTube-VIS average precision, recalls, and identity switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlkit_core.errors import DataError, TrainingError
from mlkit_core.types import Batch, Example, SampleMeta
from mlkit_dvis.assembly import to_rles
from mlkit_dvis.metrics.switches import COUNTED, Identities, identities
from mlkit_dvis.metrics.ytvis import (
    AREAS,
    MOST,
    VideoScores,
    precision_and_recall,
    score_video,
    track_iou,
)
from mlkit_dvis.results import InstanceTrack, TrackAnnotation, VideoTarget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Prediction


@dataclass(frozen=True)
class _Video:
    """What one video adds: scores by class, identities, and its row of the table."""

    scores: dict[int, VideoScores]
    identities: Identities
    row: dict[str, Any]


class TrackAp:
    """Gathers videos; AP and AR are of all of them together, never a mean of means.

    Args:
        num_classes: Of the data.
    """

    def __init__(self, num_classes: int) -> None:
        self._classes = num_classes
        self._videos: list[_Video] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add one video: its tracks, and a batch whose target is the whole video's.

        Raises:
            TrainingError: The target is no `VideoTarget`.
            DataError: A track is of another length or size, or of no known class.
        """
        if not isinstance(batch.target, VideoTarget):
            got = type(batch.target).__name__
            raise TrainingError(f"track-ap: expected the annotated tracks of a video, got {got}")
        found = [p for p in predictions if isinstance(p, InstanceTrack)]
        true = batch.target.tracks
        self._check(batch.meta[0].key, [*found, *true])
        scores: dict[int, VideoScores] = {}
        for label in range(self._classes):
            scored = score_video(found, true, label)
            if scored is not None:
                scores[label] = scored
        counted = [track for track in true if not track.is_crowd]
        kept = identities(found, counted)
        row = _row(batch.meta[0], found, counted, kept)
        self._videos.append(_Video(scores, kept, row))

    def _check(self, key: str, tracks: Sequence[InstanceTrack | TrackAnnotation]) -> None:
        """Raise unless all tracks are of one length, one size and known classes."""
        lengths = {len(track.rles) for track in tracks}
        sizes = {tuple(rle["size"]) for track in tracks for rle in track.rles if rle is not None}
        labels = {track.label for track in tracks if not 0 <= track.label < self._classes}
        for what, values in (("frames", lengths), ("mask sizes", sizes)):
            if len(values) > 1:
                raise DataError(f"track-ap: {key}: tracks have {sorted(values)} {what}")
        if labels:
            raise DataError(f"track-ap: {key}: labels {sorted(labels)}, classes {self._classes}")

    def state(self) -> list[_Video]:
        """Return the videos so far."""
        return list(self._videos)

    def merge(self, state: Sequence[_Video]) -> None:
        """Add another rank's videos."""
        self._videos += state

    def compute(self) -> Mapping[str, float]:
        """Return scores over all videos; NaN where nothing of the kind is annotated.

        Videos are taken in order of their name, so that ties of scores do not depend on ranks.
        """
        videos = sorted(self._videos, key=lambda video: str(video.row["video"]))
        by_class = [
            [video.scores[label] for video in videos if label in video.scores]
            for label in range(self._classes)
        ]
        values = {"ap": _average(by_class, "all")}
        values |= {"ap50": _average(by_class, "all", 0), "ap75": _average(by_class, "all", 5)}
        values |= {f"ap_{area}": _average(by_class, area) for area in AREAS if area != "all"}
        values |= {f"ar{most}": _recall(by_class, most) for most in MOST[:2]}
        kept = [video.identities for video in videos]
        visible = sum(found.visible for found in kept)
        values["switches"] = float(sum(found.switches for found in kept))
        values["missed_frames"] = (
            sum(found.missed for found in kept) / visible if visible else float("nan")
        )
        values["videos"] = float(len(videos))
        return values

    def by_class(self) -> dict[int, dict[str, float]]:
        """Return AP, AP at 0.5 and the number of annotated tracks of each annotated class."""
        videos = sorted(self._videos, key=lambda video: str(video.row["video"]))
        found: dict[int, dict[str, float]] = {}
        for label in range(self._classes):
            scores = [video.scores[label] for video in videos if label in video.scores]
            true = sum(score.true["all"] for score in scores)
            if true:
                ap = {"ap": _average([scores], "all"), "ap50": _average([scores], "all", 0)}
                found[label] = ap | {"tracks": true}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each video."""
        return sorted((video.row for video in self._videos), key=lambda row: str(row["video"]))


def _average(
    classes: Sequence[Sequence[VideoScores]], area: str, level: int | None = None
) -> float:
    found = [precision_and_recall(videos, area) for videos in classes]
    precisions = [pair[0] if level is None else pair[0][level] for pair in found if pair]
    return float(np.mean(precisions)) if precisions else float("nan")


def _recall(classes: Sequence[Sequence[VideoScores]], most: int) -> float:
    found = [precision_and_recall(videos, "all", most) for videos in classes]
    recalls = [pair[1] for pair in found if pair]
    return float(np.mean(recalls)) if recalls else float("nan")


def _row(
    meta: SampleMeta,
    found: Sequence[InstanceTrack],
    true: Sequence[TrackAnnotation],
    kept: Identities,
) -> dict[str, Any]:
    """Return what the table says of a video."""
    iou = track_iou([track.rles for track in found], [track.rles for track in true])
    alike = np.array([[f.label == t.label for t in true] for f in found], bool)
    iou = np.where(alike, iou, 0.0) if iou.size else iou
    best = iou.max(0) if iou.size else np.zeros(len(true))
    taken = iou.max(1) if iou.size else np.zeros(len(found))
    false = [f for f, overlap in zip(found, taken, strict=True) if overlap < 0.5]
    return {
        "video": meta.key,
        "frames": meta.extra.get("num_frames", ""),
        "tracks": len(true),
        "found": int((best >= 0.5).sum()),
        "mean_iou": round(float(best.mean()), 4) if len(true) else "",
        "false_tracks": sum(track.score >= COUNTED for track in false),
        "switches": kept.switches,
        "missed_frames": kept.missed,
    }


def example(folder: Path) -> Example:
    """Return two videos: one track found well and one missed, one found under a wrong label."""
    del folder
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    whole, shifted = tuple(to_rles(masks)), tuple(to_rles(masks.roll(1, 2)))
    targets = (
        VideoTarget((TrackAnnotation(0, whole), TrackAnnotation(1, shifted))),
        VideoTarget((TrackAnnotation(1, whole),)),
    )
    found = ([InstanceTrack(0, 0.9, shifted)], [InstanceTrack(0, 0.8, whole, row=1)])
    batches = [
        Batch(inputs={}, meta=(SampleMeta(key=f"video{i}"),), target=target)
        for i, target in enumerate(targets)
    ]
    return Example(args=tuple(zip(found, batches, strict=True)), context={"num_classes": 2})
