"""The contract kit's example of `temporal-refiner`: one clip, two tracks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mlkit_core.types import Example, FeatureSpec
from mlkit_dvis.head import example as frames_example
from mlkit_dvis.tracker import Track
from mlkit_dvis.tracker.features import TrackFeatures

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_dvis.features import SegmenterFeatures


def example(folder: Path) -> Example:
    """Return tiny options, and a scope of a segmenter's frames and two tracks."""
    frames = frames_example(folder)
    features: SegmenterFeatures = frames.args[0]["frames"]
    length, dim, side = len(features.logits), features.queries.shape[-1], features.masks.shape[-1]
    tracks = tuple(_track(start, length - start, dim, side) for start in (0, 1))
    spec: FeatureSpec = frames.context["inputs"]["frames"]
    tracked = TrackFeatures(clips=(tracks,), valid=features.valid)
    return Example(
        options={
            "layers": 2, "heads": 2, "feedforward": 16, "noise_frames": 1,
            "num_rows": features.logits.shape[1],
        },
        args=({"frames": features, "tracks": tracked},),
        context={
            "inputs": {
                "frames": spec,
                "tracks": replace(spec, channels={}, strides={}, type=TrackFeatures),
            },
            "on": "tracks",
            "num_classes": features.logits.shape[-1] - 1,
        },
    )  # fmt: skip


def _track(start: int, frames: int, dim: int, side: int) -> Track:
    return Track(
        start=start,
        dead=False,
        embeds=torch.randn(frames, dim),
        logits=torch.randn(frames, 3),
        masks=torch.randn(frames, side, side),
        appearance=torch.ones(frames, dtype=torch.bool),
        pos_embed=torch.randn(dim),
        pos_embed_history=torch.randn(frames, dim),
        id=start,
    )
