"""The metric `track-hota`: TrackEval's HOTA on the masks of each frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_masks

from mlkit_core.errors import PluginError, TrainingError
from mlkit_dvis.metrics.component import example
from mlkit_dvis.results import InstanceTrack, VideoTarget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from mlkit_core.types import Batch, Prediction
    from mlkit_dvis.results import TrackAnnotation

    Floats = npt.NDArray[np.float64]

__all__ = ["HotaVideo", "TrackHota", "example", "hota_input"]

_SCORE = 0.3  # from which a track counts, as in what `mlkit dvis run` reports
_INSIDE = 0.5  # share of a found mask within a crowd from which it is left out


@dataclass(frozen=True)
class HotaVideo:
    """What one video adds: TrackEval's counts of each class; plain arrays.

    Args:
        name: Of the video.
        classes: Class index to TrackEval's fields.
    """

    name: str
    classes: dict[int, dict[str, Any]] = field(default_factory=dict)


class TrackHota:
    """Gathers videos; HOTA, DetA and AssA of each class over all of them, averaged over classes.

    HOTA knows no ranking: tracks below a score do not count. Classes that are neither annotated
    nor found are left out of the average. As TrackEval says it, the mean over 19 overlaps.

    Source: Luiten et al., "HOTA", IJCV 2021; TrackEval's own class computes it.

    Args:
        num_classes: Of the data.
        score: From which a track counts.

    Raises:
        PluginError: TrackEval is not installed.
    """

    def __init__(self, num_classes: int, score: float = _SCORE) -> None:
        self._classes = num_classes
        self._score = score
        self._hota = _track_eval()
        self._videos: list[HotaVideo] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add one video: its tracks, and a batch whose target is the whole video's.

        Raises:
            TrainingError: The target is no `VideoTarget`.
        """
        if not isinstance(batch.target, VideoTarget):
            got = type(batch.target).__name__
            raise TrainingError(f"track-hota: expected the annotated tracks of a video, got {got}")
        found = [p for p in predictions if isinstance(p, InstanceTrack) and p.score >= self._score]
        video = HotaVideo(batch.meta[0].key)
        for label in range(self._classes):
            ours = [track.rles for track in found if track.label == label]
            theirs = [track for track in batch.target.tracks if track.label == label]
            if ours or theirs:
                video.classes[label] = self._hota.eval_sequence(hota_input(ours, theirs))
        self._videos.append(video)

    def state(self) -> list[HotaVideo]:
        """Return the videos so far."""
        return list(self._videos)

    def merge(self, state: Sequence[HotaVideo]) -> None:
        """Add another rank's videos."""
        self._videos += state

    def compute(self) -> Mapping[str, float]:
        """Return the scores; NaN where nothing is annotated or found."""
        videos = sorted(self._videos, key=lambda video: video.name)
        classes = sorted({label for video in videos for label in video.classes})
        scores = [
            self._hota.combine_sequences(
                {i: v.classes[label] for i, v in enumerate(videos) if label in v.classes}
            )
            for label in classes
        ]
        counted = [found for found in scores if _any_mask(found)]
        return {
            name.lower(): float(np.mean([found[name].mean() for found in counted]))
            if counted
            else float("nan")
            for name in ("HOTA", "DetA", "AssA")
        }


def _any_mask(scores: Mapping[str, Any]) -> bool:
    return bool(sum(scores[name].sum() for name in ("HOTA_TP", "HOTA_FN", "HOTA_FP")))


def hota_input(
    found: Sequence[Sequence[Mapping[str, Any] | None]], true: Sequence[TrackAnnotation]
) -> dict[str, Any]:
    """Return one class of one video as TrackEval's HOTA takes it.

    Crowds are no tracks; a found mask that lies in one and on no counted annotation is left out.

    Args:
        found: For each track one RLE or None for each frame.
        true: The annotated tracks of the class.
    """
    counted = [track.rles for track in true if not track.is_crowd]
    crowds = [track.rles for track in true if track.is_crowd]
    length = max((len(rles) for rles in (*found, *counted)), default=0)
    theirs, ours, similar = [], [], []
    for t in range(length):
        seen = [i for i, rles in enumerate(counted) if t < len(rles) and rles[t] is not None]
        here = [i for i, rles in enumerate(found) if t < len(rles) and rles[t] is not None]
        iou = _overlap([counted[i][t] for i in seen], [found[i][t] for i in here], crowd=False)
        hidden = [rles[t] for rles in crowds if t < len(rles) and rles[t] is not None]
        inside = _overlap(hidden, [found[i][t] for i in here], crowd=True).max(0, initial=0)
        kept = (inside <= _INSIDE) | (iou.max(0, initial=0) >= _INSIDE)
        theirs.append(np.array(seen, int))
        ours.append(np.array(here, int)[kept])
        similar.append(iou[:, kept])
    return {
        "gt_ids": theirs,
        "tracker_ids": ours,
        "similarity_scores": similar,
        "num_gt_ids": len(counted),
        "num_tracker_ids": len(found),
        "num_gt_dets": sum(map(len, theirs)),
        "num_tracker_dets": sum(map(len, ours)),
    }


def _overlap(
    true: Sequence[Mapping[str, Any] | None],
    found: Sequence[Mapping[str, Any] | None],
    *,
    crowd: bool,
) -> Floats:
    """Return intersection over union, `[true, found]`; of crowds over the found mask's area."""
    if not true or not found:
        return np.zeros((len(true), len(found)))
    iou: Any = coco_masks.iou(list(found), list(true), [int(crowd)] * len(true))  # pyright: ignore[reportArgumentType]
    return np.asarray(iou, np.float64).T


def _track_eval() -> Any:  # noqa: ANN401  # TrackEval is untyped
    try:
        from trackeval.metrics import HOTA
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-dvis[hota]'"
        raise PluginError("track-hota: trackeval is not installed", hint=hint) from err
    return HOTA()
