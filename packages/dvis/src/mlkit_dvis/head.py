"""The head of video instances: one set of rows for a clip, tracks for a whole video."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.types import Example, FeatureSpec, Letterbox, SampleMeta, TrackLogits
from mlkit_dvis.assembly import assemble, naive_link
from mlkit_dvis.features import SegmenterFeatures, clip_windows
from mlkit_dvis.pipeline.session import Parts, SessionOptions, VideoSession
from mlkit_dvis.pipeline.writing import Layout, TensorRows, write_tracks
from mlkit_dvis.refiner.features import RefinedFeatures
from mlkit_dvis.results import ClipTracks
from mlkit_dvis.tracker.features import TrackFeatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.model import Model
    from mlkit_core.types import Batch, Features, Role
    from mlkit_dvis.results import InstanceTrack
    from mlkit_dvis.tracker import Track

_READABLE = (RefinedFeatures, TrackFeatures, SegmenterFeatures)
_STRIDE = 4  # of the segmenter's masks
_ABSENT = -1e4  # mask logit of a row that pads a clip, and where a track does not exist


class VideoInstances(nn.Module):
    """Reads what the last of segmenter, tracker and refiner wrote; owns no parameters.

    `forward` gives a clip's rows for losses and for other heads' roads. `stream` takes a whole
    video window by window, keeps what is small, puts aside what is large, and runs the refiner
    once over all of it; its memory does not grow with the video.

    Args:
        inputs: Role to spec.
        on: Role to read; build passes the one written last.
        max_tracks: Results of a video.
        noise_frames: Without a refiner: tracks of fewer frames are dropped, unless they reach the
            last frame.
        chunk: Frames that the refiner sees at once.
        overlap: Frames that neighbouring chunks of a longer video share.

    Raises:
        BuildError: The role is not one of a segmenter, a tracker or a refiner, or has no clips.
    """

    output_type = TrackLogits

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        *,
        max_tracks: int = 20,
        noise_frames: int = 5,
        chunk: int = 120,
        overlap: int = 40,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        if not issubclass(inputs[self.on].type, _READABLE):
            have = ", ".join(f"{role}: {spec.type.__name__}" for role, spec in inputs.items())
            raise BuildError(
                f"on: role {self.on!r} must come from mask2former, daq-tracker or "
                f"temporal-refiner; there are {have}"
            )
        if len(inputs[self.on].lead) != 2:
            lead = ", ".join(inputs[self.on].lead)
            raise BuildError(
                f"on: role {self.on!r} must hold clips of frames, its lead is ({lead})"
            )
        if overlap >= chunk:
            raise BuildError(f"overlap: must be below chunk {chunk}, got {overlap}")
        self.max_tracks, self.noise_frames = max_tracks, noise_frames
        self.chunk, self.overlap = chunk, overlap

    def forward(self, scope: Mapping[Role, Features]) -> TrackLogits:
        """Return the rows of each clip, logits `[B, Q, K + 1]` and masks `[B, Q, T, h, w]`.

        While the tracker trains, its rows change from frame to frame and no track exists: then
        there are zero rows, and the losses read the tracker's role.
        """
        features = scope[self.on]
        if isinstance(features, RefinedFeatures):
            return TrackLogits(features.logits, features.masks)
        if isinstance(features, TrackFeatures):
            return self._tracked(features, scope)
        return linked_rows(features)

    def _tracked(self, features: TrackFeatures, scope: Mapping[Role, Features]) -> TrackLogits:
        frames = next(f for f in scope.values() if isinstance(f, SegmenterFeatures))
        if features.valid is None:
            raise BuildError(f"role {self.on!r} has no clips and frames")
        clips, length = features.valid.shape
        height, width = frames.masks.shape[-2:]
        if features.training is not None:
            logits = frames.logits.new_zeros(clips, 0, frames.logits.shape[-1])
            return TrackLogits(logits, frames.masks.new_zeros(clips, 0, length, height, width))
        return _padded([self._rows_of(tracks, length) for tracks in features.clips], frames, length)

    def _rows_of(self, tracks: Sequence[Track], length: int) -> tuple[Tensor, Tensor] | None:
        found = assemble(tracks, length, self.noise_frames)
        return (found.logits, found.masks) if len(found.logits) else None

    def decode(self, output: TrackLogits, meta: Sequence[SampleMeta]) -> list[ClipTracks]:
        """Return each clip's tracks, best first; clips are whole items here."""
        found: list[ClipTracks] = []
        for logits, masks, sample in zip(output.logits, output.masks, meta, strict=True):
            padded = (masks.shape[-2] * _STRIDE, masks.shape[-1] * _STRIDE)
            rows = TensorRows(logits, masks)
            layout = Layout.of(sample, padded)
            found.append(ClipTracks(write_tracks(rows, layout, self.max_tracks)))
        return found

    def options(self, mode: str, **more: Any) -> SessionOptions:  # noqa: ANN401  # its fields
        """Return how this head reads a video out, with some fields replaced."""
        base = SessionOptions(
            mode=mode,  # pyright: ignore[reportArgumentType]  # Parts.mode
            max_tracks=self.max_tracks,
            noise_frames=self.noise_frames,
            chunk=self.chunk,
            overlap=self.overlap,
        )
        return replace(base, **more)

    def stream(
        self, model: Model, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, list[InstanceTrack]]]:
        """Yield once per video the window in its middle and its tracks, best first."""
        parts = Parts.of(model)
        for _, windows in itertools.groupby(batches, key=lambda batch: batch.meta[0].key):
            session: VideoSession | None = None
            shown: Batch | None = None
            for batch in windows:
                session = session or self.session(parts, batch)
                middle = int(batch.meta[0].extra.get("num_frames") or 0) // 2
                if shown is None or session.frames <= middle:
                    shown = batch
                session.add(batch)
            if session is not None and shown is not None:
                yield shown, list(session.finish().tracks)

    def session(self, parts: Parts, batch: Batch, **more: Any) -> VideoSession:  # noqa: ANN401  # fields of SessionOptions
        """Return a session for the video that a batch is the first window of."""
        options = self.options(more.pop("mode", parts.mode), **more)
        return VideoSession(parts, options, batch.meta[0], _padded_size(parts, batch))


def _padded_size(parts: Parts, batch: Batch) -> tuple[int, int]:
    """Return height and width of the model's input, also where its features are cached."""
    known = batch.features.get(parts.frames)
    if isinstance(known, SegmenterFeatures):
        height, width = known.masks.shape[-2:]
        return height * _STRIDE, width * _STRIDE
    height, width = batch.inputs[parts.model.reads[parts.frames]].shape[-2:]
    return height, width


def linked_rows(frames: Features) -> TrackLogits:
    """Return the segmenter's queries, linked over each clip by their likeness.

    Source: Huang, Yu and Anandkumar, "MinVIS", NeurIPS 2022, section 3.2.
    """
    logits: list[Tensor] = []
    masks: list[Tensor] = []
    for window in clip_windows(frames):
        order = naive_link(window.pred_embds[0].permute(1, 2, 0).detach())  # [T, Q]
        time = torch.arange(window.frames, device=order.device)[:, None]
        logits.append(window.pred_logits[0][time, order].mean(0))
        masks.append(window.pred_masks[0].transpose(0, 1)[time, order].transpose(0, 1))
    return TrackLogits(torch.stack(logits), torch.stack(masks))


def _padded(
    rows: Sequence[tuple[Tensor, Tensor] | None], frames: SegmenterFeatures, length: int
) -> TrackLogits:
    """Stack clips of unequal numbers of tracks; rows that pad are sure to be no object."""
    most = max((len(found[0]) for found in rows if found is not None), default=0)
    logits = frames.logits.new_zeros(len(rows), most, frames.logits.shape[-1])
    logits[..., -1] = -_ABSENT
    height, width = frames.masks.shape[-2:]
    masks = frames.masks.new_full((len(rows), most, length, height, width), _ABSENT)
    for clip, found in enumerate(rows):
        if found is not None:
            logits[clip, : len(found[0])], masks[clip, : len(found[0])] = found
    return TrackLogits(logits, masks)


def example(folder: Path) -> Example:
    """Return a segmenter's features of one clip of two frames."""
    del folder
    queries, classes, dim, side = 4, 2, 8, 4
    rows = 2
    features = SegmenterFeatures(
        maps={"p2": torch.randn(rows, dim, side, side)},
        tokens=torch.randn(rows, queries, dim),
        valid=torch.ones(1, rows, dtype=torch.bool),
        logits=torch.randn(rows, queries, classes + 1),
        masks=torch.randn(rows, queries, side, side),
        queries=torch.randn(queries, dim).expand(rows, -1, -1),
    )
    spec = FeatureSpec(
        channels={"p2": dim},
        strides={"p2": 4},
        token_dim=dim,
        lead=("clip", "frame"),
        type=SegmenterFeatures,
    )
    box = Letterbox(scale=1.0, size=(side * 4, side * 4))
    meta = (SampleMeta(key="clip", size=(side * 4, side * 4), letterbox=box),)
    return Example(
        args=({"frames": features}, meta),
        context={"inputs": {"frames": spec}, "on": "frames", "num_classes": classes},
    )
