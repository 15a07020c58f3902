"""Small examples of the tracker and of its loss, for the contract kit and the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_core.types import (
    Batch,
    Example,
    FeatureSpec,
    ModelOutput,
    SampleMeta,
    Step,
    TrackTarget,
)
from mlkit_dvis.features import MASK_LEVEL, SegmenterFeatures
from mlkit_dvis.tracker.fusion import LEAD, TrackerFusion

if TYPE_CHECKING:
    from pathlib import Path


def tracker_example(folder: Path) -> Example:
    """Return a segmenter's view of two clips of two frames, and their target."""
    del folder
    clips, length, queries, classes, dim, size = 2, 2, 5, 2, 8, 16
    rows, side = clips * length, size // 4
    features = SegmenterFeatures(
        maps={MASK_LEVEL: torch.randn(rows, dim, side, side)},
        tokens=torch.randn(rows, queries, dim),
        valid=torch.ones(clips, length, dtype=torch.bool),
        logits=torch.randn(rows, queries, classes + 1),
        masks=torch.randn(rows, queries, side, side),
        queries=torch.randn(queries, dim).expand(rows, -1, -1),
    )
    spec = FeatureSpec(
        channels={MASK_LEVEL: dim},
        strides={MASK_LEVEL: 4},
        token_dim=dim,
        lead=LEAD,
        type=SegmenterFeatures,
    )
    sizes = {"num_queries": queries, "layers": 2, "heads": 2, "feedforward": 16}
    return Example(
        options={**sizes, "num_slots": 2, "points": 32, "ovis_infer": True},
        args=({"frames": features},),
        context={
            "inputs": {"frames": spec},
            "num_classes": classes,
            "target": TrackTarget.example(clips, size, classes),
            "step": Step(0, 1, torch.Generator()),
        },
    )


def tracker_set_example(folder: Path) -> Example:
    """Return what a training tracker says of two clips, their target, and a step: for its loss."""
    given = tracker_example(folder)
    fusion = TrackerFusion(
        given.context["inputs"], given.context["num_classes"], **given.options
    ).train()
    step, target = given.context["step"], given.context["target"]
    features = fusion(given.args[0], target=target, step=step)
    meta = tuple(SampleMeta(key=str(clip)) for clip in range(len(target.masks)))
    batch = Batch(inputs={}, meta=meta, target=target)
    return Example(
        options={"points": 32},
        args=(ModelOutput(head=None, scope={"tracks": features}), batch, step),
        context={"inputs": {"tracks": fusion.spec}, "num_classes": given.context["num_classes"]},
    )
