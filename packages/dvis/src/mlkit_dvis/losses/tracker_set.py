"""The tracker's set loss: matched rows of all frames learn their instance, on every level.

Source: the training of Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV
2024, as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import TrainingError
from mlkit_core.types import Ratio, TrackTarget
from mlkit_dvis.losses.criterion import SetOptions, choose_role, read
from mlkit_dvis.losses.points import class_loss, mask_point_losses
from mlkit_dvis.tracker.features import TrackFeatures, clip_truth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_dvis.losses.criterion import Sampler
    from mlkit_dvis.tracker.truth import ClipTruth, FrameOutput, TrackerTraining


@dataclass(frozen=True)
class Lesson:
    """What the rows of successive frames should say; the same on every level.

    Args:
        classes: `[R]` class index of all frames' rows, "no object" the last one.
        rows: For each frame the rows `[v]` that have a mask to learn.
        masks: `[V, H, W]`, theirs, all frames joined.
        pairs: How many rows are matched, those whose instance is not visible too.
    """

    classes: Tensor
    rows: tuple[Tensor, ...]
    masks: Tensor
    pairs: int


def make_lesson(outputs: Sequence[FrameOutput], truth: ClipTruth, first: int) -> Lesson:
    """Return what rows should say.

    A matched row learns its instance where the frame shows it and it does not count as gone; all
    other rows are no object.

    Args:
        outputs: Of successive frames.
        truth: The clip's instances.
        first: Index of the first of these frames within the clip.
    """
    labels, device = truth.labels.cpu(), truth.masks.device
    classes: list[Tensor] = []
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    for t, output in enumerate(outputs, start=first):
        gone = torch.tensor(output.disappeared, dtype=torch.int64)
        shown = truth.present[output.instances, t] & ~torch.isin(output.instances, gone)
        learned, instances = output.rows[shown], output.instances[shown]
        _, count, outcomes = output.logits.shape
        wanted = torch.full((count,), outcomes - 1)
        wanted[learned] = labels[instances]
        classes.append(wanted)
        rows.append(learned)
        masks.append(truth.masks[instances.to(device), t])
    pairs = sum(len(output.rows) for output in outputs)
    return Lesson(torch.cat(classes), tuple(rows), torch.cat(masks), pairs)


def level_losses(
    outputs: Sequence[FrameOutput],
    lesson: Lesson,
    level: int,
    sample: Sampler,
    *,
    no_object_weight: float = 0.1,
) -> dict[str, Ratio]:
    """Return the parts "class", "mask" and "dice" of one level, unweighted.

    Args:
        outputs: Of successive frames.
        lesson: What their rows should say.
        level: Index into their levels.
        sample: Draws the points of matched masks.
        no_object_weight: Class weight of rows without instance.
    """
    logits = torch.cat([output.logits[level] for output in outputs])  # [R, K + 1]
    ratio = class_loss(logits, lesson.classes.to(logits.device), no_object_weight)
    entropy = dice = logits.sum() * 0
    if len(lesson.masks):
        pairs = zip(outputs, lesson.rows, strict=True)
        masks = torch.cat([output.masks(level, rows) for output, rows in pairs])  # [V, h, w]
        entropy, dice = mask_point_losses(masks, lesson.masks.to(masks.dtype), sample(masks))
    count = float(lesson.pairs)
    return {"class": ratio, "mask": Ratio(entropy, count), "dice": Ratio(dice, count)}


def branch_losses(
    outputs: Sequence[FrameOutput],
    truth: ClipTruth,
    first: int,
    sample: Sampler,
    *,
    no_object_weight: float = 0.1,
) -> dict[str, Ratio]:
    """Return the parts "class", "mask" and "dice" of one branch, summed over levels, unweighted.

    Every level has the same rows and pairs, so that one count holds for the sum.

    Args:
        outputs: Of successive frames; at least one.
        truth: The clip's instances.
        first: Index of the first of these frames within the clip.
        sample: Draws the points of matched masks.
        no_object_weight: Class weight of rows without instance.
    """
    lesson = make_lesson(outputs, truth, first)
    levels = [
        level_losses(outputs, lesson, level, sample, no_object_weight=no_object_weight)
        for level in range(len(outputs[0].logits))
    ]
    return {
        name: Ratio(torch.stack([parts[name].sum for parts in levels]).sum(), ratio.count)
        for name, ratio in levels[0].items()
    }


def clip_losses(
    clip: TrackerTraining, truth: ClipTruth, sample: Sampler, no_object_weight: float
) -> dict[str, Ratio]:
    """Return "class", "mask" and "dice" of the tracker and, under "slot_…", of the slot branch.

    Args:
        clip: What both branches said.
        truth: The clip's instances.
        sample: Draws the points of matched masks.
        no_object_weight: Class weight of rows without instance.
    """
    losses = partial(branch_losses, truth=truth, sample=sample, no_object_weight=no_object_weight)
    parts = losses(clip.frames, first=0)
    slots = {name: Ratio(part.sum * 0, 0.0) for name, part in parts.items()}
    if clip.slots:  # a clip of one frame has none
        slots = losses(clip.slots, first=1)
    return parts | {f"slot_{name}": part for name, part in slots.items()}


class TrackerSetLoss(nn.Module):
    """Class, cross-entropy and Dice of the tracker's rows and of the slot branch's, every level.

    Which row answers for which instance is decided by the tracker while it trains: rows that are
    handed on keep their instance.

    Args:
        inputs: Role to spec.
        on: Role of the tracker; None: the only one.
        points: Of a mask.
        oversample: Candidates per point.
        importance: Share of the most uncertain candidates among the points.
        class_weight: Of the class loss.
        mask_weight: Of the cross-entropy of masks.
        dice_weight: Of Dice.
        no_object_weight: Class weight of rows without instance.
        slot_weight: Of the slot branch's parts, times the weights above.
    """

    output_type, target_type = None, TrackTarget

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        *,
        points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        slot_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.on = choose_role(inputs, on, TrackFeatures)
        weights = (class_weight, mask_weight, dice_weight)
        self.options = SetOptions(points, oversample, importance, weights, no_object_weight)
        parts = dict(zip(("class", "mask", "dice"), weights, strict=True))
        self.worth = parts | {f"slot_{name}": slot_weight * w for name, w in parts.items()}

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return "class", "mask", "dice" and the slot branch's three, summed over levels."""
        features, target = read(output, batch, self.on, TrackFeatures)
        training = features.training
        if training is None:
            raise TrainingError(
                f"role {self.on!r}: holds tracks, but nothing to learn from: the tracker is frozen",
                hint=f"drop this loss, or do not freeze fusions.{self.on}",
            )
        if len(training) != len(target.masks):
            raise TrainingError(
                f"role {self.on!r}: {len(training)} clips, but the target has {len(target.masks)}"
            )
        sample = self.options.sampler(step.generator)
        clips: list[dict[str, Ratio]] = []
        for index, clip in enumerate(training):
            truth = clip_truth(target, index, len(clip.frames))
            clips.append(clip_losses(clip, truth, sample, self.options.no_object_weight))
        return {name: _joined([c[name] for c in clips], w) for name, w in self.worth.items()}


def _joined(parts: Sequence[Ratio], weight: float) -> Ratio:
    """Return one part of several clips: sums and counts each added up."""
    total = torch.stack([part.sum for part in parts]).sum()
    counts = [torch.as_tensor(part.count, device=total.device) for part in parts]
    return Ratio(weight * total, torch.stack(counts).sum())
