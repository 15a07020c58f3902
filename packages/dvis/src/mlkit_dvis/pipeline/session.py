"""One video through segmenter, tracker and refiner: window by window in, tracks out.

What grows with the video lies in files: frame embeddings, mask features, the rows of tracks. In
memory stay, for every frame, a few indices, and for every track its sums.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from mlkit_core.errors import BuildError
from mlkit_dvis.features import MASK_LEVEL, SegmenterFeatures, clip_windows
from mlkit_dvis.pipeline.linked import LinkedQueries
from mlkit_dvis.pipeline.looking import QueryLog
from mlkit_dvis.pipeline.refined import Chunks, refined_rows
from mlkit_dvis.pipeline.rows import TrackRows
from mlkit_dvis.pipeline.spill import Spill
from mlkit_dvis.pipeline.writing import Layout, write_tracks
from mlkit_dvis.results import VideoResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from mlkit_core.model import Model
    from mlkit_core.types import Batch, SampleMeta
    from mlkit_dvis.pipeline.writing import RowSource
    from mlkit_dvis.refiner.fusion import RefinerFusion
    from mlkit_dvis.tracker import TrackerState
    from mlkit_dvis.tracker.fusion import TrackerFusion

Mode = Literal["segmenter", "online", "offline"]
_READ = 5  # frames of mask features in memory at once


@dataclass(frozen=True)
class SessionOptions:
    """How a video is read out.

    Args:
        mode: What makes the tracks: linked queries of the segmenter, the tracker, or the refiner.
        max_tracks: Results of a video; one row may give several, with different labels.
        noise_frames: Tracks of fewer frames are dropped unless they reach the last frame.
        chunk: Frames that the refiner sees at once; longer videos go in overlapping chunks.
        overlap: Frames that neighbouring chunks share.
        masks: Where mask features wait for the refiner: in a file, or computed a second time.
        spill: Folder for temporary files; None: the system's.
        attention: Decoder layers of the segmenter whose attention is kept; empty: none.
    """

    mode: Mode
    max_tracks: int = 20
    noise_frames: int = 5
    chunk: int = 120
    overlap: int = 40
    masks: Literal["spill", "recompute"] = "spill"
    spill: Path | None = None
    attention: Sequence[int] = ()


@dataclass(frozen=True)
class Parts:
    """The parts of a model that videos run through, found by what they are.

    Args:
        model: All of it.
        frames: The segmenter's role.
        tracking: None where the model ends at the segmenter.
        refining: None where it ends at the tracker.
    """

    model: Model
    frames: str
    tracking: TrackerFusion | None
    refining: RefinerFusion | None

    @classmethod
    def of(cls, model: Model) -> Parts:
        """Find them.

        Raises:
            BuildError: No encoder is a segmenter.
        """
        from mlkit_dvis.refiner.fusion import RefinerFusion
        from mlkit_dvis.tracker.fusion import TrackerFusion

        specs = model.specs
        roles = [r for r in model.encoders if issubclass(specs[r].type, SegmenterFeatures)]
        if not roles:
            raise BuildError(f"no encoder of {', '.join(model.encoders)} is a video segmenter")
        fusions = list(model.fusions.values())
        tracking = next((f for f in fusions if isinstance(f, TrackerFusion)), None)
        refining = next((f for f in fusions if isinstance(f, RefinerFusion)), None)
        return cls(model, roles[0], tracking, refining)

    @property
    def mode(self) -> Mode:
        """The furthest that the model goes."""
        if self.refining is not None:
            return "offline"
        return "online" if self.tracking is not None else "segmenter"

    def segment(self, batch: Batch) -> SegmenterFeatures:
        """Return the segmenter's features of a batch's frames, in float32."""
        from mlkit_core.tensors import to_float32

        features = self.model.encode(self.frames, batch)
        if not isinstance(features, SegmenterFeatures):
            raise BuildError(f"encoders.{self.frames}: gave {type(features).__name__}")
        return to_float32(features)


class VideoSession:
    """Takes one video's windows in order and gives its tracks at the end.

    Args:
        parts: Of the model, which must be in eval mode.
        options: How to read it out.
        meta: Of the video's windows.
        padded: Height and width of the model's input.

    Raises:
        BuildError: The model has no part that the mode needs.
    """

    def __init__(
        self, parts: Parts, options: SessionOptions, meta: SampleMeta, padded: tuple[int, int]
    ) -> None:
        _check_mode(parts, options.mode)
        self.parts, self.options = parts, options
        self.layout = Layout.of(meta, padded)
        self.spill = Spill(options.spill)
        self.frames = 0
        looking, mode = bool(options.attention), options.mode
        self._linked = LinkedQueries(self.spill, masks=mode == "segmenter")
        self._tracks = TrackRows(self.spill, masks=mode == "online", queries=looking)
        self._features = self.spill.file("mask_features")
        self._log = QueryLog(self.spill, options.attention) if looking else None
        self._state: TrackerState | None = None

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Take the next window."""
        with self._log.capturing(self.parts) if self._log is not None else nullcontext():
            features = self.parts.segment(batch)
        window = clip_windows(features)[0]
        self.frames += window.frames
        if self._log is not None:
            self._log.add(window)
        if self.options.mode != "online":
            self._linked.add(window)
        if self.options.mode == "segmenter" or self.parts.tracking is None:
            return
        if self.options.mode == "offline" and self.options.masks == "spill":
            for values in window.mask_features[0]:
                self._features.append(values[None])
        tracker, looking = self.parts.tracking.tracker, self._log is not None
        self._state, records = tracker.step(self._state, window, "inference", attention=looking)
        for record in records:
            self._tracks.add(record)

    @torch.no_grad()
    def finish(self, again: Callable[[], Iterable[Batch]] | None = None) -> VideoResult:
        """Return the tracks, best first, and remove the temporary files.

        Where attention was asked for, its file stays until `close`.

        Args:
            again: Gives the same windows once more; needed for `masks="recompute"`.
        """
        try:
            source = self._source(again) if self.frames else None
            tracks = write_tracks(source, self.layout, self.options.max_tracks) if source else ()
        except BaseException:
            self.close()
            raise
        queries = self._log.table() if self._log is not None else None
        if queries is None:
            self.close()
        layout = self.layout
        return VideoResult(tracks, layout.output, self.frames, layout.content, queries)

    def _source(self, again: Callable[[], Iterable[Batch]] | None) -> RowSource | None:
        options, refining = self.options, self.parts.refining
        if options.mode == "segmenter":
            return self._linked
        if options.mode == "online" or refining is None:
            return self._tracks.kept(options.noise_frames, self.frames)
        features = self._recomputed(again) if options.masks == "recompute" else self._stored()
        chunks = Chunks(options.chunk, options.overlap)
        return refined_rows(refining, self._tracks, self._linked, self.spill, features, chunks)

    def _stored(self) -> Iterator[Tensor]:
        for start in range(0, self.frames, _READ):
            yield self._features.read_range(start, min(start + _READ, self.frames))[:, 0]

    def _recomputed(self, again: Callable[[], Iterable[Batch]] | None) -> Iterator[Tensor]:
        if again is None:
            raise BuildError("masks 'recompute': the windows cannot be had a second time")
        for batch in again():
            yield self.parts.segment(batch).maps[MASK_LEVEL]

    def close(self) -> None:
        """Remove the temporary files; attention can no longer be read after it."""
        self.spill.close()


def _check_mode(parts: Parts, mode: Mode) -> None:
    missing = {"online": parts.tracking is None, "offline": parts.refining is None}
    if missing.get(mode):
        what = "tracker" if mode == "online" else "refiner"
        raise BuildError(f"mode {mode!r}: the model has no {what}; it goes as far as {parts.mode}")
