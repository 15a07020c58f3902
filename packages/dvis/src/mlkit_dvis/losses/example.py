"""Small examples of the losses, for the contract kit and the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_core.types import (
    Batch,
    Example,
    Features,
    FeatureSpec,
    ModelOutput,
    SampleMeta,
    Step,
    TrackTarget,
)
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.refiner.features import RefinedFeatures

if TYPE_CHECKING:
    from pathlib import Path

_CLIPS, _FRAMES, _QUERIES, _CLASSES, _SIZE, _DIM = 2, 2, 5, 2, 16, 8


def _example(role: str, spec: FeatureSpec, features: Features) -> Example:
    meta = tuple(SampleMeta(key=str(clip), size=(_SIZE, _SIZE)) for clip in range(_CLIPS))
    batch = Batch(inputs={}, meta=meta, target=TrackTarget.example(_CLIPS, _SIZE, _CLASSES))
    output = ModelOutput(head=None, scope={role: features})
    return Example(
        options={"points": 32},
        args=(output, batch, Step(0, 1, torch.Generator())),
        context={"inputs": {role: spec}, "num_classes": _CLASSES},
    )


def _segmented() -> Example:
    rows, side = _CLIPS * _FRAMES, _SIZE // 4
    features = SegmenterFeatures(
        maps={"p2": torch.randn(rows, _DIM, side, side)},
        tokens=torch.randn(rows, _QUERIES, _DIM),
        valid=torch.ones(_CLIPS, _FRAMES, dtype=torch.bool),
        logits=torch.randn(rows, _QUERIES, _CLASSES + 1),
        masks=torch.randn(rows, _QUERIES, side, side),
        queries=torch.randn(_QUERIES, _DIM).expand(rows, -1, -1),
        reid=torch.randn(rows, _QUERIES, _DIM),
        aux_logits=torch.randn(rows, 2, _QUERIES, _CLASSES + 1),
        aux_masks=torch.randn(rows, 2, _QUERIES, side, side),
    )
    spec = FeatureSpec(
        channels={"p2": _DIM},
        strides={"p2": 4},
        token_dim=_DIM,
        lead=("clip", "frame"),
        type=SegmenterFeatures,
    )
    return _example("frames", spec, features)


def frame_set_example(folder: Path) -> Example:
    """Return a segmenter's view of two clips of two frames, three layers, and their target."""
    del folder
    return _segmented()


def reid_example(folder: Path) -> Example:
    """Return a segmenter's view of two clips of two frames, and their target."""
    del folder
    return _segmented()


def video_set_example(folder: Path) -> Example:
    """Return a refiner's view of two clips of two frames, three layers, and their target."""
    del folder
    side = _SIZE // 4
    masks = (_QUERIES, _FRAMES, side, side)
    features = RefinedFeatures(
        logits=torch.randn(_CLIPS, _QUERIES, _CLASSES + 1),
        masks=torch.randn(_CLIPS, *masks),
        online_logits=torch.randn(_CLIPS, _QUERIES, _CLASSES + 1),
        online_masks=torch.randn(_CLIPS, *masks),
        embeds=torch.randn(_CLIPS, _QUERIES, _FRAMES, _DIM),
        frame_weights=torch.randn(_CLIPS, _FRAMES, _QUERIES).softmax(1),
        aux_logits=torch.randn(_CLIPS, 2, _QUERIES, _CLASSES + 1),
        aux_masks=torch.randn(_CLIPS, 2, *masks),
    )
    return _example("refined", FeatureSpec(type=RefinedFeatures), features)
