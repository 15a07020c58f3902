"""What evaluation and prediction show of a video: a strip for reports, a film and a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_dvis.clips.pixels import resize_frames
from mlkit_dvis.drawing.footage import Footage
from mlkit_dvis.drawing.outputs import write_outputs
from mlkit_dvis.drawing.overlay import Drawn, draw_objects
from mlkit_dvis.drawing.selection import reported_tracks, track_rows
from mlkit_dvis.drawing.shapes import decode
from mlkit_dvis.drawing.tracked import DrawingOptions, TrackedVideo
from mlkit_dvis.results import VideoResult
from mlkit_dvis.video import VideoWriter, open_source, read_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_core.types import Batch
    from mlkit_dvis.results import InstanceTrack

    Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB

_SCORE = 0.3
_FRAMES = 3  # of a strip
_FPS = 10.0  # of what is written where the source has no rate of its own


def window_picture(tracks: Sequence[InstanceTrack], batch: Batch) -> Picture | None:
    """Return some frames of a batch's window above each other, plain and with the tracks drawn.

    Args:
        tracks: Of the whole video.
        batch: One window of it, in model input.
    """
    meta = batch.meta[0]
    pixels = next((values for values in batch.inputs.values() if values.ndim == 5), None)
    if pixels is None or meta.size is None or meta.letterbox is None:
        return None
    rows, columns = meta.letterbox.content
    scaled = (pixels[0, ..., rows, columns].clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    frames = resize_frames(scaled, meta.size).permute(0, 2, 3, 1).numpy()
    first = int(meta.extra.get("first_frame") or 0)
    shown = np.unique(np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round())
    objects = track_rows(_reported(tracks), _numbers(tracks))
    strips: list[Picture] = []
    for t in shown.astype(int).tolist():
        drawn = [
            Drawn(shape, row.colour, row.title)
            for row in objects
            if (shape := decode(row.track.rles[first + t])) is not None
        ]
        plain = np.ascontiguousarray(frames[t])
        strips.append(np.concatenate([plain, draw_objects(plain, drawn)], axis=1))
    return np.concatenate(strips, axis=0)


def _reported(tracks: Sequence[InstanceTrack]) -> tuple[InstanceTrack, ...]:
    return reported_tracks(tracks, {track.label for track in tracks}, _SCORE)


def _numbers(tracks: Sequence[InstanceTrack]) -> list[str]:
    """Return names for labels where the classes are not known."""
    return [f"class {label}" for label in range(1 + max((t.label for t in tracks), default=0))]


def write_video(
    tracks: Sequence[InstanceTrack], batch: Batch, folder: Path, classes: Sequence[str]
) -> list[Path]:
    """Write `tracks.json`, the overlay and the contact sheet of a video; return the files.

    Its frames are read again from where they lie, one at a time.

    Args:
        tracks: Of the whole video.
        batch: One window of it; its meta names the source.
        folder: Made.
        classes: Names by label.
    """
    meta = batch.meta[0]
    path = Path(meta.path)
    source = open_source(path)
    stride = int(meta.extra.get("stride") or 1)
    frames = int(meta.extra.get("num_frames") or source.frames or 0)
    folder.mkdir(parents=True, exist_ok=True)
    reported = _reported(tracks)
    video = TrackedVideo(
        result=VideoResult(tuple(tracks), source.size, frames),
        tracks=reported,
        rows=track_rows(reported, classes),
        footage=Footage(str(path), source.size, source.fps, frames, stride),
        classes=tuple(classes),
        provenance={},
        frames=lambda: read_frames(path, stride=stride),
    )
    drawing = DrawingOptions(fps=(source.fps or _FPS) / stride, open_video=VideoWriter)
    return list(write_outputs(video, folder, drawing, lambda _what, _done, _total: None))
