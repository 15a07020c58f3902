"""The refiner's set loss: an instance is matched once for a whole clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mlkit_core.errors import TrainingError
from mlkit_core.types import TrackTarget
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
from mlkit_dvis.refiner.features import RefinedFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Ratio, Role, Step


def joined(logits: Tensor, masks: Tensor) -> Layer:
    """Return a layer of clips: masks `[B, N, T, h, w]` with their frames joined to `T * h` rows."""
    return Layer(logits, masks.flatten(2, 3))


def refined_layers(refined: RefinedFeatures) -> list[Layer]:
    """Return what every layer of the refiner says, the last one last."""
    layers: list[Layer] = []
    if refined.aux_logits is not None and refined.aux_masks is not None:
        pairs = zip(refined.aux_logits.unbind(1), refined.aux_masks.unbind(1), strict=True)
        layers = [joined(logits, masks) for logits, masks in pairs]
    return [*layers, joined(refined.logits, refined.masks)]


def clip_instances(target: TrackTarget, like: Tensor) -> Instances:
    """Return the instances that some frame of their clip shows; rows are clips.

    Args:
        target: Of B clips.
        like: A tensor of the masks' dtype.
    """
    visible = (target.masks.flatten(2).any(-1) & (target.labels >= 0)).cpu()  # [B, M]
    clip, instance = visible.nonzero().unbind(1)
    device = target.masks.device
    masks = target.masks[clip.to(device), instance.to(device)].flatten(1, 2)  # [V, T * H, W]
    return Instances(clip, target.labels.cpu()[clip, instance], masks.to(like.dtype))


def match_clips(
    refined: RefinedFeatures, instances: Instances, points: Tensor, step: Step, options: SetOptions
) -> Tensor:
    """Return each layer's query of each instance, `[L, V]` on the CPU.

    In the first half of the stage the tracker's outputs decide for all layers, so that a query
    keeps the instance it tracks; afterwards each layer's own outputs do.

    Source: the training of Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries",
    ECCV 2024, as published.
    """
    layers = refined_layers(refined)
    if step.iteration < step.iterations / 2:
        tracked = joined(refined.online_logits, refined.online_masks)
        queries = assign([tracked], instances, points, options.weights)
        return queries.expand(len(layers), -1)
    return assign(layers, instances, points, options.weights)


class VideoSetLoss(nn.Module):
    """Class, cross-entropy and Dice of the refiner's tracks over whole clips, for every layer.

    The frames of a clip are joined along the height, so that a mask's points spread over all of
    them. The class is that of the clip.

    Args:
        inputs: Role to spec.
        on: Role of the refiner; None: the only one.
        points: Of a mask and frame (published: 12544 for each of 15 frames).
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
        self.on = choose_role(inputs, on, RefinedFeatures)
        weights = (class_weight, mask_weight, dice_weight)
        self.options = SetOptions(points, oversample, importance, weights, no_object_weight)

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor | Ratio]:
        """Return the parts "class", "mask" and "dice", summed over layers."""
        refined, target = read(output, batch, self.on, RefinedFeatures)
        clips, _, length = target.masks.shape[:3]
        got = (refined.masks.shape[0], refined.masks.shape[2])
        if got != (clips, length):
            raise TrainingError(
                f"role {self.on!r}: {got[0]} clips of {got[1]} frames, but the target has "
                f"{clips} of {length}"
            )
        instances = clip_instances(target, refined.masks)
        count = self.options.points * length
        points = random_points(count, step.generator, refined.masks.device, refined.masks.dtype)
        queries = match_clips(refined, instances, points, step, self.options)
        parts = set_losses(
            refined_layers(refined),
            instances,
            queries,
            self.options.sampler(step.generator, length),
            no_object_weight=self.options.no_object_weight,
        )
        return self.options.weigh(parts)
