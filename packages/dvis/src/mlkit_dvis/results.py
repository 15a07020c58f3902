"""What a video's tracks look like once they have left the model: plain values and RLE masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_core.types import Prediction, Target, TrackPrediction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from mlkit_core.types import Batch

Rle = dict[str, Any]  # COCO's {"size": [H, W], "counts": str}, compressed


@dataclass(frozen=True)
class InstanceTrack(TrackPrediction):
    """A track of a whole video: `label`, `score`, one RLE (or None) for each frame, and more.

    Several may come from one model row with different labels: then they share `row`.

    Args:
        row: The model's row that the track came from: stable within the video.
        frame_weights: How much each frame counted for the class (they sum to 1); empty where no
            refiner ran.
        frame_queries: For each frame the segmenter's query that the track follows, -1 where none.
    """

    row: int = 0
    frame_weights: tuple[float, ...] = ()
    frame_queries: tuple[int, ...] = ()

    @property
    def visible(self) -> list[int]:
        """Frames in which the mask is not empty."""
        return [t for t, rle in enumerate(self.rles) if rle is not None]

    @staticmethod
    def draw_item(
        predictions: Sequence[InstanceTrack], batch: Batch
    ) -> npt.NDArray[np.uint8] | None:
        """Return the frames of a window with all tracks drawn, for reports."""
        from mlkit_dvis.drawing.items import window_picture

        return window_picture(predictions, batch)

    @staticmethod
    def write_item(
        predictions: Sequence[InstanceTrack],
        batch: Batch,
        out: Path,
        stem: str,
        classes: Sequence[str],
    ) -> list[Path]:
        """Write overlay and contact sheet of a whole video into a folder `stem` of `out`."""
        from mlkit_dvis.drawing.items import write_video

        return write_video(predictions, batch, out / stem, classes)


@dataclass(frozen=True)
class ClipTracks(Prediction):
    """The tracks of one clip that is an item by itself, best first."""

    tracks: tuple[InstanceTrack, ...]


@dataclass(frozen=True)
class TrackAnnotation:
    """One annotated instance of a video.

    Args:
        label: Class index.
        rles: One RLE for each frame, None where the instance is not visible.
        is_crowd: Ignored by the metric.
        instance: Its id in the annotation file.
    """

    label: int
    rles: tuple[Rle | None, ...]
    is_crowd: bool = False
    instance: int = 0


@dataclass(frozen=True)
class VideoTarget(Target):
    """The annotated tracks of one whole video, at original size; what evaluation compares with."""

    tracks: tuple[TrackAnnotation, ...]


@dataclass(frozen=True)
class QueryTable:
    """What the segmenter said of every query of every frame, for what was looked at and dropped.

    Args:
        scores: `[T, Q]` float32, the best class's probability.
        labels: `[T, Q]` int64, that class.
        no_object: `[T, Q]` float32, probability of "no object".
        attention: Gives a frame's attention, `[Q, h, w]` float32 over the padded input's stride-8
            grid, each map summing to 1: by frame index and decoder layer (negative from the end).
        layers: Decoder layers that `attention` can give.
        close: Removes the files that `attention` reads; call it when all is drawn.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    no_object: npt.NDArray[np.float32]
    attention: Callable[[int, int], npt.NDArray[np.float32]]
    layers: tuple[int, ...]
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class VideoResult:
    """A whole video, tracked.

    Args:
        tracks: Best first.
        size: Height and width of the frames, original pixels.
        num_frames: Of the video, as tracked (after `stride`).
        content: Height and width of the part of the padded input that shows the frame, as shares
            0..1: what crops attention maps to the frame.
        queries: None unless asked for.
    """

    tracks: tuple[InstanceTrack, ...]
    size: tuple[int, int]
    num_frames: int
    content: tuple[float, float] = (1.0, 1.0)
    queries: QueryTable | None = None

    def close(self) -> None:
        """Remove the files that attention is read from."""
        if self.queries is not None:
            self.queries.close()
