"""What the tracker hands to the refiner, the head and its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.types import Features
from mlkit_dvis.tracker.truth import ClipTruth

if TYPE_CHECKING:
    from mlkit_core.types import TrackTarget
    from mlkit_dvis.tracker.tracks import Track
    from mlkit_dvis.tracker.truth import TrackerTraining


@dataclass(frozen=True, kw_only=True)
class TrackFeatures(Features):
    """The tracks of each clip; `valid` and `state` as in `Features`.

    `state` holds, for each clip, what the next window of the same video needs; its size does not
    grow with the video. After a later window, `clips` holds the part of each track that lies in
    it; parts of one track share its id.

    Args:
        clips: For each clip its tracks in order of birth; empty while the tracker trains.
        training: For each clip what its rows said, while the tracker trains; else None.
    """

    clips: tuple[tuple[Track, ...], ...] = ()
    training: tuple[TrackerTraining, ...] | None = None


def clip_truth(target: TrackTarget, clip: int, frames: int) -> ClipTruth:
    """Return the instances of one clip, in its first frames.

    Args:
        target: Of B clips; rows of label -1 are padding.
        clip: Index, below B.
        frames: How many of its frames.
    """
    real = target.labels[clip] >= 0
    return ClipTruth.of(target.masks[clip, real, :frames], target.labels[clip, real])
