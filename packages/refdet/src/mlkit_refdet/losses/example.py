"""Small examples of the losses, for the contract kit and the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.types import Batch, Example, FeatureSpec, ModelOutput, SampleMeta, Step
from mlkit_refdet.features import LEVELS, STRIDES, PairFeatures, QueryFeatures, SupportFeatures
from mlkit_refdet.results import BINS, BranchLogits, ReferenceLogits
from mlkit_refdet.targets import ReferenceTarget, TripletTarget

if TYPE_CHECKING:
    from pathlib import Path

_SIZE, _DIM, _CLASSES, _SHOTS = 64, 8, 3, 2
_SIDES = {level: _SIZE // STRIDES[level] for level in LEVELS}
_WIDTHS = {"p3": 8, "p4": 12, "p5": 16}
# Image 0: class 0, small and large; image 1: classes 1 and 0, middling; image 2: nothing.
_BOXES = torch.tensor(
    [
        [[4.0, 6.0, 24.0, 30.0], [-40.0, -40.0, 104.0, 104.0]],
        [[-16.0, -8.0, 80.0, 72.0], [34.0, 36.0, 60.0, 61.0]],
        [[0.0] * 4, [0.0] * 4],
    ]
)
_LABELS = torch.tensor([[0, 0], [1, 0], [-1, -1]])
_ASKED = torch.tensor([[0, 1], [1, 0], [2, -1]])


def _detected() -> Example:
    """Two images, one pair and one cell each: as the contract cuts every tensor to one row."""
    target = ReferenceTarget.example(2, 32, 2)
    standard = BranchLogits(torch.randn(2, 1, 4 * BINS), torch.randn(2, 1, 2))
    pairs = BranchLogits(torch.randn(2, 1, 4 * BINS), torch.randn(2, 1, 1))
    points, strides = torch.tensor([[16.0, 16.0]]), torch.tensor([32.0])
    head = ReferenceLogits(points, strides, standard, pairs, torch.tensor([[0], [1]]))
    return _example(ModelOutput(head=head, scope={}), target, {})


def _example(
    output: ModelOutput, target: ReferenceTarget, inputs: dict[str, FeatureSpec]
) -> Example:
    meta = tuple(SampleMeta(key=str(row)) for row in range(len(target.labels)))
    batch = Batch(inputs={}, meta=meta, target=target)
    return Example(
        args=(output, batch, Step(0, 1, torch.Generator())),
        context={"inputs": inputs, "num_classes": _CLASSES},
    )


def _target() -> TripletTarget:
    """Two triplets: image 1's object of class 1 and the empty image 2 are the negatives of 0."""
    every = torch.arange(_CLASSES)
    return TripletTarget(
        boxes_xyxy=_BOXES,
        labels=_LABELS,
        class_ids=every,
        category_ids=every,
        background=(_LABELS < 0).all(1),
        anchors=torch.tensor([0, 0]),
        positives=torch.tensor([0, 0]),
        negatives=torch.tensor([1, 2]),
        is_background=torch.tensor([False, True]),
    )


def _regions() -> Example:
    """Three images with embeddings, three classes of two shots."""
    embed = {level: torch.randn(3, _DIM, side, side) for level, side in _SIDES.items()}
    shots = {level: F.normalize(torch.randn(_CLASSES * _SHOTS, _DIM), dim=-1) for level in LEVELS}
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    scope = {
        "query": QueryFeatures(maps=embed, embed=embed),
        "support": SupportFeatures(maps={}, protos=shots, valid=valid),
    }
    specs = {
        "query": FeatureSpec(
            channels=dict.fromkeys(LEVELS, _DIM), strides=STRIDES, type=QueryFeatures
        ),
        "support": FeatureSpec(token_dim=_DIM, lead=("class", "shot"), type=SupportFeatures),
    }
    return _example(ModelOutput(head=None, scope=scope), _target(), specs)


def _fused() -> Example:
    """Three images, two asked classes each but for one, and what the fusion made of them."""
    pairs = {level: torch.randn(3, 2, _WIDTHS[level], side, side) for level, side in _SIDES.items()}
    protos = {level: F.normalize(torch.randn(_CLASSES, _DIM), dim=-1) for level in LEVELS}
    maps = {level: values.amax(1) for level, values in pairs.items()}
    fused = PairFeatures(maps=maps, pairs=pairs, class_protos=protos, asked=_ASKED)
    points, strides = _grid()
    dense = BranchLogits(torch.randn(6, len(points), 4 * BINS), torch.randn(6, len(points), 1) - 1)
    head = ReferenceLogits(points, strides, None, dense, _ASKED)
    specs = {
        "support": FeatureSpec(token_dim=_DIM, lead=("class", "shot"), type=SupportFeatures),
        "fused": FeatureSpec(channels=_WIDTHS, strides=STRIDES, type=PairFeatures),
    }
    return _example(ModelOutput(head=head, scope={"fused": fused}), _target(), specs)


def _grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Return centres `[A, 2]` and strides `[A]` of all cells, row by row within a level."""
    points: list[torch.Tensor] = []
    strides: list[torch.Tensor] = []
    for level, side in _SIDES.items():
        steps = (torch.arange(side) + 0.5) * STRIDES[level]
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
        strides.append(torch.full((side * side,), float(STRIDES[level])))
    return torch.cat(points), torch.cat(strides)


def detected_example(folder: Path) -> Example:
    """Return both branches' logits of two images, and their target."""
    del folder
    return _detected()


def regions_example(folder: Path) -> Example:
    """Return embeddings of three images and prototypes of three classes, and triplets."""
    del folder
    return _regions()


def fused_example(folder: Path) -> Example:
    """Return fused maps and logits of six pairs, and their target."""
    del folder
    return _fused()
