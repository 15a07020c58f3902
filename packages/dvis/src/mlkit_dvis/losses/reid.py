"""Losses of the segmenter's ReID embeddings: one instance alike over frames, others unlike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Ratio, TrackTarget
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses.criterion import read
from mlkit_dvis.losses.frame_set import frame_assignment, segmenter_role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step


def contrastive_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Return `log(1 + sum_n exp(n . a - p . a))` of each item, `[I]`.

    Source: Ying et al., "CTVIS: Consistent Training for Online Video Instance Segmentation",
    ICCV 2023; for one positive.

    Args:
        anchors: `[I, C]`.
        positives: `[I, C]`, the same instance in another frame.
        negatives: `[I, N, C]`.
        kept: `[I, N]` bool, which negatives count; None: all.
    """
    likeness = (negatives @ anchors[..., None])[..., 0]  # [I, N]
    margins = likeness - (positives * anchors).sum(-1, keepdim=True)
    if kept is not None:
        margins = margins.masked_fill(~kept, -torch.inf)
    return torch.cat([torch.zeros_like(margins[:, :1]), margins], 1).logsumexp(1)


def cosine_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Return each item's mean squared error of cosines, `[I]`: 1 is wanted of the positive, else 0.

    Args:
        anchors: `[I, C]`.
        positives: `[I, C]`.
        negatives: `[I, N, C]`.
        kept: `[I, N]` bool, which negatives count; None: all.
    """
    same = F.cosine_similarity(anchors, positives, dim=-1)
    other = F.cosine_similarity(anchors[:, None], negatives, dim=-1)  # [I, N]
    counted = torch.ones_like(other) if kept is None else kept.to(other.dtype)
    return ((same - 1) ** 2 + (other**2 * counted).sum(1)) / (1 + counted.sum(1))


def fused_memory(embeds: Tensor, exists: Tensor) -> Tensor:
    """Return each instance's similarity-guided mean after each frame, `[N, T, C]`.

    A new embedding moves the mean by its mean cosine with all earlier ones, at least 0; the first
    one is the mean. A frame without the instance changes nothing.

    Args:
        embeds: `[N, T, C]`.
        exists: `[N, T]` bool.
    """
    unit, memory = F.normalize(embeds, dim=-1), torch.zeros_like(embeds[:, 0])
    means: list[Tensor] = []
    for time in range(embeds.shape[1]):
        seen = exists[:, :time].to(embeds.dtype)  # [N, time]
        count = seen.sum(1, keepdim=True)
        cosines = (unit[:, :time] * unit[:, time, None]).sum(-1)
        likeness = (cosines * seen).sum(1, keepdim=True) / count.clamp_min(1)
        share = torch.where(count > 0, likeness.clamp_min(0), 1.0)
        moved = (1 - share) * memory + share * embeds[:, time]
        memory = torch.where(exists[:, time, None], moved, memory)
        means.append(memory)
    return torch.stack(means, 1)


@dataclass(frozen=True)
class Comparisons:
    """Which embeddings are compared; every tensor is `[I]`, on the CPU.

    An anchor is an instance in a frame after the first. Its positive is the frame before in which
    it was last seen; where it was never seen before, the frame in which it is seen next. An
    instance that is seen once gives no item.

    Args:
        instance: Index of the anchor's instance.
        frame: Its frame.
        positive: Frame of the positive.
        known: Whether the instance was seen before.
        own: The instance's query in the frame before, which is no negative; -1: it was absent.
    """

    instance: Tensor
    frame: Tensor
    positive: Tensor
    known: Tensor
    own: Tensor

    @classmethod
    def of(cls, queries: Tensor) -> Comparisons:
        """Return all items of instances whose queries are `[N, T]` on the CPU, -1 where absent."""
        exists, times = queries >= 0, torch.arange(queries.shape[1])
        end = queries.shape[1]
        last = torch.where(exists, times, -1).cummax(1).values  # [N, T], seen up to this frame
        coming = torch.where(exists, times, end).flip(1).cummin(1).values.flip(1)
        coming = F.pad(coming[:, 1:], (0, 1), value=end)  # seen next, after this frame
        before, after = last[:, :-1], coming[:, 1:]  # of frames 1..T-1
        known = before >= 0
        items = exists[:, 1:] & (known | (after < end))
        instance, turn = items.nonzero().unbind(1)
        positive = torch.where(known, before, after)[items]
        return cls(instance, turn + 1, positive, known[items], queries[instance, turn])


def draw_negatives(own: Tensor, queries: int, count: int, generator: torch.Generator) -> Tensor:
    """Return which queries of the frame before are negatives, `[I, Q]` bool on the CPU.

    Args:
        own: `[I]`, the instance's query there, left out; -1: it was absent, then all count.
        queries: Q.
        count: How many of the others count, drawn at random where there are more.
        generator: On the CPU.
    """
    present = own >= 0
    order = torch.rand(len(own), queries, generator=generator)
    order[present, own[present]] = 2.0  # behind all others
    kept = order.argsort(1).argsort(1) < min(count, queries - 1)
    return kept | ~present[:, None]


class ReidLoss(nn.Module):
    """Contrastive and cosine losses of the ReID embeddings of a clip's instances.

    Each frame's instances are matched with its queries as in `frame-set`. Then every instance is
    compared with itself in an earlier frame, or with its running mean, and with the other queries
    of the frame before.

    Source: Ying et al., "CTVIS: Consistent Training for Online Video Instance Segmentation",
    ICCV 2023.

    Args:
        inputs: Role to spec.
        on: Role of the segmenter; None: the only one.
        contrastive_weight: Of the contrastive loss.
        aux_weight: Of the cosines' squared error.
        negatives: Other queries that an instance is compared with; all where it was absent.
        memory_chance: How often the positive is the running mean instead of one embedding.
        points: Of a mask, for matching; as in `frame-set`, so that both share one matching.
        match_weights: Of class, cross-entropy and Dice in the matching cost; likewise.
    """

    output_type, target_type = None, TrackTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        *,
        contrastive_weight: float = 2.0,
        aux_weight: float = 3.0,
        negatives: int = 99,
        memory_chance: float = 0.5,
        points: int = 12544,
        match_weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
    ) -> None:
        super().__init__()
        if negatives < 1 or points < 1 or not 0 <= memory_chance <= 1:
            raise BuildError(
                f"negatives {negatives} and points {points} must be at least 1, "
                f"memory_chance {memory_chance} within 0..1"
            )
        self.on = segmenter_role(inputs, on)
        self.contrastive_weight, self.aux_weight = contrastive_weight, aux_weight
        self.negatives, self.memory_chance = negatives, memory_chance
        self.points, self.match_weights = points, match_weights

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the parts "contrastive" and "aux", means over the batch's items."""
        frames, target = read(output, batch, self.on, SegmenterFeatures)
        if frames.reid is None:
            raise TrainingError(
                f"role {self.on!r}: has no ReID embeddings", hint="its encoder needs a ReID head"
            )
        found = frame_assignment(
            frames, target, step, self.on, points=self.points, weights=self.match_weights
        )
        table = found.table()  # [B, M, T]
        reid = frames.reid.unflatten(0, (table.shape[0], table.shape[2]))  # [B, T, Q, C]
        given = self.items(reid, table, step.generator)
        count = float(len(given[0]))
        contrastive, aux = contrastive_loss(*given).sum(), cosine_loss(*given).sum()
        return {
            "contrastive": Ratio(contrastive * self.contrastive_weight, count),
            "aux": Ratio(aux * self.aux_weight, count),
        }

    def items(
        self, reid: Tensor, table: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return anchors `[I, C]`, positives `[I, C]`, negatives `[I, Q, C]` and which count.

        Args:
            reid: `[B, T, Q, C]`.
            table: `[B, M, T]`, each instance's query in each frame, on the CPU; -1 where absent.
            generator: Draws positives and negatives; on the CPU.
        """
        device, instances = reid.device, table.shape[1]
        queries = table.flatten(0, 1)  # [N, T], N = B * M
        embeds, exists = _embeds(reid, table), (queries >= 0).to(device)
        pairs = Comparisons.of(queries)
        instance, frame = pairs.instance.to(device), pairs.frame.to(device)
        single = embeds[instance, pairs.positive.to(device)]
        mean = fused_memory(embeds, exists)[instance, frame - 1]
        use_mean = torch.rand(len(frame), generator=generator) < self.memory_chance
        use_mean = (use_mean & pairs.known).to(device)[:, None]
        kept = draw_negatives(pairs.own, reid.shape[2], self.negatives, generator)
        others = reid[instance // max(instances, 1), frame - 1]  # [I, Q, C]
        positives = torch.where(use_mean, mean, single)
        return embeds[instance, frame], positives, others, kept.to(device)


def _embeds(reid: Tensor, table: Tensor) -> Tensor:
    """Return each instance's embedding in each frame, `[N, T, C]`; any value where it is absent."""
    clips, length = torch.arange(table.shape[0]), torch.arange(table.shape[2])
    where = (clips[:, None, None], length, table.clamp_min(0))
    return reid[tuple(index.to(reid.device) for index in where)].flatten(0, 1)
