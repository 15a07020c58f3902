"""The segmenter's set loss: every frame is an image of its own, every layer is matched anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import TrackTarget
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses.criterion import (
    Instances,
    Layer,
    SetOptions,
    assign,
    choose_role,
    read,
    set_losses,
)
from mlkit_dvis.losses.points import random_points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Ratio, Role, Step
    from mlkit_dvis.matching import Weights


@dataclass(frozen=True)
class FrameAssignment:
    """Which query of the last layer answers for each instance that a frame shows.

    Args:
        visible: `[B, M, T]` bool, on the CPU.
        instances: The visible ones, in the order of `visible.nonzero()`; rows are frames.
        queries: `[V]`, on the CPU; -1 where a frame has more instances than queries.
        points: `[1, P, 2]`, where masks were compared.
    """

    visible: Tensor
    instances: Instances
    queries: Tensor
    points: Tensor

    def table(self) -> Tensor:
        """Return the query of each instance in each frame, `[B, M, T]` on the CPU; -1 for none."""
        table = torch.full(self.visible.shape, -1)
        table[self.visible] = self.queries
        return table


def segmenter_role(inputs: Mapping[Role, FeatureSpec], on: Role | None) -> Role:
    """Return the role of a segmenter that sees clips of frames: `on`, or the only one.

    Raises:
        BuildError: There is none, there are several, or its rows are no frames of clips.
    """
    role = choose_role(inputs, on, SegmenterFeatures)
    if len(inputs[role].lead) != 2:
        lead = ", ".join(inputs[role].lead)
        raise BuildError(f"on: role {role!r} must have lead (clip, frame), got ({lead})")
    return role


def frame_instances(
    target: TrackTarget, frames: SegmenterFeatures, role: Role
) -> tuple[Tensor, Instances]:
    """Return which instances are visible, `[B, M, T]` on the CPU, and these instances.

    Raises:
        TrainingError: Target and features differ in clips or frames.
    """
    clips, _, length = target.masks.shape[:3]
    valid = frames.valid
    if valid is None or valid.shape != (clips, length):
        got = "no lead" if valid is None else f"(clip, frame) {tuple(valid.shape)}"
        raise TrainingError(
            f"role {role!r}: {got}, but the target has {clips} clips of {length} frames"
        )
    shown = target.masks.flatten(-2).any(-1) & (target.labels >= 0)[..., None]
    visible = (shown & valid.to(shown.device)[:, None]).cpu()
    clip, instance, frame = visible.nonzero().unbind(1)
    device = target.masks.device
    masks = target.masks[clip.to(device), instance.to(device), frame.to(device)]
    labels = target.labels.cpu()[clip, instance]
    return visible, Instances(clip * length + frame, labels, masks.to(frames.masks.dtype))


def frame_assignment(
    frames: SegmenterFeatures,
    target: TrackTarget,
    step: Step,
    role: Role,
    *,
    points: int,
    weights: Weights,
) -> FrameAssignment:
    """Return the last layer's matching, made once per batch for all losses that ask alike.

    Args:
        frames: Of the role.
        target: Of the batch.
        step: Its generator draws the points, and it keeps the assignment.
        role: Where the features stand in the scope.
        points: At which masks are compared.
        weights: Worth of class, cross-entropy and Dice.
    """

    def make() -> FrameAssignment:
        visible, instances = frame_instances(target, frames, role)
        drawn = random_points(points, step.generator, frames.masks.device, frames.masks.dtype)
        last = Layer(frames.logits, frames.masks)
        queries = assign([last], instances, drawn, weights)[0]
        return FrameAssignment(visible, instances, queries, drawn)

    return step.once(("frame assignment", role, points, weights), make)


class FrameSetLoss(nn.Module):
    """Class, cross-entropy and Dice of the segmenter's queries, frame by frame, for every layer.

    Each frame's visible instances are matched with its queries, by every layer's own outputs.

    Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
    CVPR 2022, section 4.1.

    Args:
        inputs: Role to spec.
        on: Role of the segmenter; None: the only one.
        points: Of a mask, for matching and for the loss.
        oversample: Candidates per point of the loss.
        importance: Share of the most uncertain candidates among the points of the loss.
        class_weight: Of the class loss and the class cost.
        mask_weight: Of the cross-entropy of masks, in loss and cost.
        dice_weight: Of Dice, in loss and cost.
        no_object_weight: Class weight of queries without instance.
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
    ) -> None:
        super().__init__()
        self.on = segmenter_role(inputs, on)
        weights = (class_weight, mask_weight, dice_weight)
        self.options = SetOptions(points, oversample, importance, weights, no_object_weight)

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the parts "class", "mask" and "dice", summed over layers."""
        frames, target = read(output, batch, self.on, SegmenterFeatures)
        weights, points = self.options.weights, self.options.points
        found = frame_assignment(frames, target, step, self.on, points=points, weights=weights)
        layers = earlier_layers(frames)
        earlier = assign(layers, found.instances, found.points, weights)
        parts = set_losses(
            [*layers, Layer(frames.logits, frames.masks)],
            found.instances,
            torch.cat([earlier, found.queries[None]]),
            self.options.sampler(step.generator),
            no_object_weight=self.options.no_object_weight,
            valid=frames.valid,
        )
        return self.options.weigh(parts)


def earlier_layers(frames: SegmenterFeatures) -> list[Layer]:
    """Return what the layers before the last say, where training recorded it."""
    if frames.aux_logits is None or frames.aux_masks is None:
        return []
    pairs = zip(frames.aux_logits.unbind(1), frames.aux_masks.unbind(1), strict=True)
    return [Layer(logits, masks) for logits, masks in pairs]
