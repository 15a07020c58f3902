"""Clips to batches: padded to a common size and number of instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_core.types import Batch, TrackTarget
from mlkit_dvis.clips.sizes import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.types import Needs, Role, SampleMeta
    from mlkit_dvis.clips.sizes import Size
    from mlkit_dvis.results import VideoTarget


@dataclass(frozen=True)
class ClipSample:
    """One loaded clip or window.

    Args:
        length: T, its number of frames.
        size: Height and width of the content in pixels.
        meta: Where it came from.
        frames: `[T, 3, H, W]` uint8; None where pixels are skipped.
        masks: `[T, M, H, W]` uint8, of training; None in evaluation.
        labels: `[M]`.
        target: Of evaluation.
        keys: One for each frame, where a cache asks for them.
    """

    length: int
    size: Size
    meta: SampleMeta
    frames: Tensor | None = None
    masks: Tensor | None = None
    labels: tuple[int, ...] = ()
    target: VideoTarget | None = None
    keys: tuple[str, ...] = ()


def batch_clips(
    role: Role, samples: Sequence[ClipSample], needs: Needs, least: Size = (1, 1)
) -> list[Batch]:
    """Return one batch for each number of frames; with a cache also for each padded size.

    A frame's features depend on its padding. Those of a cache must not depend on the batch.

    Args:
        role: The input that holds frames.
        samples: At least one.
        needs: Sizes and padding that the model asks for.
        least: Size of the batch at least.
    """
    groups: dict[object, list[ClipSample]] = {}
    for sample in samples:
        own = padded([sample.size], needs, least) if needs.keys else None
        groups.setdefault((sample.length, own), []).append(sample)
    return [_batch(role, group, needs, least) for group in groups.values()]


def _batch(role: Role, samples: Sequence[ClipSample], needs: Needs, least: Size) -> Batch:
    size = padded([sample.size for sample in samples], needs, least)
    frames = [sample.frames for sample in samples if sample.frames is not None]
    clips = [_padded(clip, size, needs.pad_rgb) for clip in frames]
    keys = tuple(key for sample in samples for key in sample.keys)
    return Batch(
        inputs={role: torch.stack(clips)} if clips else {},
        meta=tuple(sample.meta for sample in samples),
        target=_target(samples, size),
        valid={role: torch.ones(len(samples), samples[0].length, dtype=torch.bool)},
        keys={role: keys} if keys else {},
    )


def _padded(frames: Tensor, size: Size, pad_rgb: Sequence[float]) -> Tensor:
    """Return frames `[T, 3, *size]`, RGB 0..1, padded below and to the right."""
    clip = torch.tensor(pad_rgb).view(1, 3, 1, 1).repeat(len(frames), 1, *size)
    height, width = frames.shape[-2:]
    torch.div(frames, 255, out=clip[..., :height, :width])
    return clip


def _target(samples: Sequence[ClipSample], size: Size) -> TrackTarget | VideoTarget | None:
    """Return training's target of all clips; evaluation's where all windows are of one video."""
    clips = [(sample, sample.masks) for sample in samples if sample.masks is not None]
    if len(clips) < len(samples):
        first = samples[0].target
        return first if all(sample.target is first for sample in samples) else None
    rows = max(1, *(len(sample.labels) for sample in samples))
    labels = torch.full((len(samples), rows), -1)
    masks = torch.zeros(len(samples), rows, samples[0].length, *size, dtype=torch.bool)
    for clip, (sample, seen) in enumerate(clips):
        count, (height, width) = len(sample.labels), sample.size
        labels[clip, :count] = torch.tensor(sample.labels, dtype=torch.long)
        masks[clip, :count, :, :height, :width] = seen.transpose(0, 1) > 0
    return TrackTarget(masks, labels)
