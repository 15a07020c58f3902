"""The metric `st-iou`: overlap in space and time over whole videos."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import DataError
from mlkit_refdet.metrics.frames import asked_frames
from mlkit_refdet.metrics.matching import box_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Batch, Prediction
    from mlkit_refdet.metrics.frames import AskedFrame

LOG = logging.getLogger("mlkit")


@dataclass(frozen=True, order=True)
class VideoFrame:
    """One frame of a video, and one class that was asked of it.

    Args:
        video: The video.
        label: The class.
        frame: Number of the frame.
        is_true: Whether the object is annotated there.
        is_found: Whether a box reached the threshold.
        iou: Of the best found box with the true one (with several, the one it overlaps most).
    """

    video: str
    label: int
    frame: int
    is_true: bool
    is_found: bool
    iou: float


def st_iou(frames: Sequence[VideoFrame]) -> float:
    """Return the sum of IoU over frames that are true and found, by those that are either.

    Nothing to find and nothing found is 1.
    """
    either = sum(frame.is_true or frame.is_found for frame in frames)
    return sum(frame.iou for frame in frames) / either if either else 1.0


def temporal_rates(frames: Sequence[VideoFrame]) -> tuple[float, float]:
    """Return precision and recall of the frames in which the object is reported; NaN for 0 / 0."""
    both = sum(frame.is_true and frame.is_found for frame in frames)
    found, true = (sum(f.is_found for f in frames), sum(f.is_true for f in frames))
    return (both / found if found else math.nan), (both / true if true else math.nan)


class StIou:
    """Gathers frames of videos; the score is the mean over videos, each with its own object.

    In each frame the best box above the threshold counts, and no other. `compute` gives the mean
    over videos of `st_iou`, `precision` and `recall` (in time, whatever the overlap; videos
    without a found frame have no precision, those without a true one no recall).

    A video that is also searched for other objects, which none of its frames shows, is no second
    video: such searches have rows of their own, and `silent` is the share of them that never found
    anything. Where no frame of a video shows anything at all, every search counts.

    Args:
        threshold: Score from which a frame's best box counts.
        classes: Names, for the table; None: their indices.
    """

    def __init__(self, threshold: float = 0.25, classes: Sequence[str] | None = None) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        self.threshold, self._names = threshold, classes
        self._frames: list[VideoFrame] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the frames of a batch.

        Raises:
            DataError: A frame does not say its video and number in `meta.extra`.
        """
        for frame in asked_frames("st-iou", predictions, batch):
            self._frames += [self._frame(frame, label) for label in frame.asked]

    def _frame(self, frame: AskedFrame, label: int) -> VideoFrame:
        video, number = frame.extra.get("video_id"), frame.extra.get("frame")
        if video is None or number is None:
            hint = "only data of videos have it; drop the metric st-iou"
            raise DataError(f"st-iou: {frame.key}: has no video_id and frame", hint=hint)
        true = frame.true.xyxy[frame.true.classes == label]
        found = frame.found[frame.found.classes == label]
        best = found.xyxy[:1][found.scores[:1] >= self.threshold]
        iou = float(box_iou(best, true).max(initial=0.0))
        return VideoFrame(str(video), label, int(number), len(true) > 0, len(best) > 0, iou)

    def state(self) -> list[VideoFrame]:
        """Return the frames so far."""
        return list(self._frames)

    def merge(self, state: Sequence[VideoFrame]) -> None:
        """Add another rank's frames."""
        self._frames += state

    def compute(self) -> Mapping[str, float]:
        """Return means over videos; a rate that no video has is left out, and the log says so."""
        every = self._videos()
        shown = {video for (video, _), frames in every.items() if any(f.is_true for f in frames)}
        videos, vain = [], []
        for (video, _), frames in every.items():
            counts = video not in shown or any(frame.is_true for frame in frames)
            (videos if counts else vain).append(frames)
        rates = [temporal_rates(video) for video in videos]
        values = {
            "st_iou": _mean([st_iou(video) for video in videos]),
            "precision": _mean([precision for precision, _ in rates]),
            "recall": _mean([recall for _, recall in rates]),
        }
        if vain:
            values["silent"] = _mean([float(not any(f.is_found for f in one)) for one in vain])
        missing = [name for name, value in values.items() if math.isnan(value)]
        if missing:
            LOG.info("st-iou: no video has a frame for it, left out: %s", ", ".join(missing))
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        return {**known, "videos": float(len(videos)), "frames": float(len(self._frames))}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each video."""
        return [self._row(frames) for frames in self._videos().values()]

    def _videos(self) -> dict[tuple[str, int], list[VideoFrame]]:
        """Return the frames of each video and object, in order.

        Raises:
            DataError: A frame came twice: the sum would count it twice.
        """
        videos: dict[tuple[str, int], list[VideoFrame]] = {}
        for frame in sorted(self._frames):
            known = videos.setdefault((frame.video, frame.label), [])
            if known and known[-1].frame == frame.frame:
                raise DataError(f"st-iou: {frame.video}: frame {frame.frame} came twice")
            known.append(frame)
        return videos

    def _row(self, frames: Sequence[VideoFrame]) -> dict[str, Any]:
        first = frames[0]
        precision, recall = temporal_rates(frames)
        both = [frame.iou for frame in frames if frame.is_true and frame.is_found]
        return {
            "metric": "st-iou",
            "key": first.video,
            "object": self._names[first.label] if self._names else str(first.label),
            "st_iou": round(st_iou(frames), 4),
            "precision": _cell(precision),
            "recall": _cell(recall),
            "mean_iou": _cell(_mean(both)),
            "frames": len(frames),
            "true_frames": sum(frame.is_true for frame in frames),
            "found_frames": sum(frame.is_found for frame in frames),
        }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else round(value, 4)
