"""The two branches of the head: each gives distances and logits of every cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_refdet.encoders.projection import ChannelNorm, unit
from mlkit_refdet.fusion.relations import start_as_identity
from mlkit_refdet.results import BINS, BranchLogits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_refdet.features import PairFeatures

_MOST_SCALE = 100.0
_LEAST_LENGTH = 1e-12  # as torch's normalize has it
_CELLS = 8400  # of a detector at 640 px: what the classes' first bias is meant for


def conv(before: int, after: int) -> nn.Sequential:
    """Return a 3x3 convolution, GroupNorm and SiLU."""
    layer = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(math.gcd(8, after), after), nn.SiLU())


def separable(before: int, after: int) -> nn.Sequential:
    """Return a depthwise 3x3 and a 1x1 convolution, a norm over channels and SiLU."""
    spatial = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
    mixing = nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(spatial, mixing, ChannelNorm(after), nn.SiLU())


def dense(maps: Mapping[str, Tensor]) -> Tensor:
    """Return maps `[R, C, h, w]` as one row of cells, `[R, A, C]`, level by level."""
    return torch.cat([values.flatten(2).transpose(1, 2) for values in maps.values()], 1)


class StandardBranch(nn.Module):
    """Boxes and classes of the data's own, from maps, as YOLOv8's head has them.

    Args:
        channels: Level to width.
        strides: Level to input pixels per cell.
        num_classes: Of the data.
    """

    def __init__(
        self, channels: Mapping[str, int], strides: Mapping[str, float], num_classes: int
    ) -> None:
        super().__init__()
        finest = next(iter(channels.values()))
        boxes, classes = max(16, finest // 4, 4 * BINS), max(finest, min(num_classes, 100))
        self.boxes, self.classes = nn.ModuleDict(), nn.ModuleDict()
        for level, width in channels.items():
            self.boxes[level] = nn.Sequential(
                conv(width, boxes), conv(boxes, boxes), nn.Conv2d(boxes, 4 * BINS, 1)
            )
            last = nn.Conv2d(classes, num_classes, 1)
            # Five objects an image are expected among the cells of a level (ultralytics' prior).
            prior = 5 / num_classes / (640 / float(strides[level])) ** 2
            nn.init.constant_(last.bias, math.log(prior))  # pyright: ignore[reportArgumentType]  # it has one
            self.classes[level] = nn.Sequential(conv(width, classes), conv(classes, classes), last)

    def forward(self, maps: Mapping[str, Tensor]) -> BranchLogits:
        """Return distances `[B, A, 4 * BINS]` and logits `[B, A, num_classes]`."""
        return BranchLogits(
            dense({level: self.boxes[level](maps[level]) for level in self.boxes}),
            dense({level: self.classes[level](maps[level]) for level in self.classes}),
        )


class PrototypeBranch(nn.Module):
    """One class at a time: the cosine of fused features and the class's prototype, and its box.

    The logit is `scale * cosine + bias`, as in YOLO-World's contrastive head (Cheng et al., CVPR
    2024): without a bias an unrelated cell would score 0.5. It starts as plain prototype matching
    on the query's embeddings. `relation` adds a learned score of the fused features, which starts
    at zero; background prototypes lower the logit of what resembles them.

    Args:
        channels: Level to width of the pairs.
        dim: Width of prototypes.
        hidden: Width of convolutions.
        scale: At the start.
        bias: At the start.
        relation: Whether a learned score is added.
        background: Number of background prototypes.
        margin: Cosine with one that is free.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        dim: int,
        *,
        hidden: int = 64,
        scale: float = 10.0,
        bias: float = -4.6,
        relation: bool = True,
        background: int = 0,
        margin: float = 0.2,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        drawn = torch.randn(background, dim) if background else None
        self.background = nn.Parameter(drawn) if drawn is not None else None
        self.project, self.boxes, self.relation = (nn.ModuleDict() for _ in range(3))
        for level, width in channels.items():
            self.project[level] = nn.Conv2d(width, dim, 1)
            start_as_identity(self.project[level])  # pyright: ignore[reportArgumentType]  # a convolution
            self.boxes[level] = nn.Sequential(
                separable(width, hidden),
                separable(hidden, hidden),
                nn.Conv2d(hidden, 4 * BINS, 1),
            )
            if relation:
                last = nn.Conv2d(hidden, 1, 1)
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]  # it has one
                self.relation[level] = nn.Sequential(separable(width, hidden), last)

    def forward(self, fused: PairFeatures, asked: Tensor) -> BranchLogits:
        """Return distances `[B * W, A, 4 * BINS]` and logits `[B * W, A, 1]`."""
        maps = {level: values.flatten(0, 1) for level, values in fused.pairs.items()}
        logits = {
            level: self._logits(level, values, fused.class_protos[level], asked)
            for level, values in maps.items()
        }
        boxes = {level: self.boxes[level](values) for level, values in maps.items()}
        return BranchLogits(dense(boxes), dense(logits))

    def _logits(self, level: str, values: Tensor, protos: Tensor, asked: Tensor) -> Tensor:
        features = self.project[level](values)  # [P, D, h, w]
        own = protos[asked.clamp_min(0).flatten()]  # [P, D]
        scale = self.scale.exp().clamp_max(_MOST_SCALE)
        # The product is divided by the features' length, not the features: D times fewer numbers.
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(_LEAST_LENGTH)
        cosine = torch.einsum("pdhw,pd->phw", features, own)[:, None] / length
        logits = scale * cosine + self.bias
        if self.background is not None:
            near = torch.einsum("pdhw,md->pmhw", features, unit(self.background)).amax(1, True)
            near = near / length
            logits = logits - scale * (near - self.margin).clamp_min(0)
        if level in self.relation:
            logits = logits + self.relation[level](values)
        return logits
