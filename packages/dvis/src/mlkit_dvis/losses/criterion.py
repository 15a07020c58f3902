"""The set criterion: matched queries learn their instance, all others to be no object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Features, Ratio, TrackTarget
from mlkit_dvis.losses.points import (
    class_loss,
    mask_point_losses,
    point_sample,
    uncertain_points,
)
from mlkit_dvis.matching import Weights, hungarian_many, point_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role

    Sampler = Callable[[Tensor], Tensor]  # mask logits [N, h, w] to points [N or 1, P, 2]

Kind = TypeVar("Kind", bound=Features)


@dataclass(frozen=True)
class Layer:
    """What one decoder layer says: class logits `[R, Q, K + 1]`, mask logits `[R, Q, h, w]`.

    Rows are frames, or clips whose frames are joined along the height.
    """

    logits: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Instances:
    """The annotated instances of all rows, one after the other.

    Args:
        rows: `[V]`, the row that each is in; on the CPU.
        labels: `[V]`, class index; on the CPU.
        masks: `[V, H, W]`, 0 or 1, floating-point.
    """

    rows: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class SetOptions:
    """How a set loss samples, matches and weighs.

    Args:
        points: Of a mask and frame.
        oversample: Candidates per point among which the most uncertain are taken.
        importance: Share of the most uncertain points.
        weights: Worth of class, cross-entropy and Dice, in the loss and in the matching cost.
        no_object_weight: Worth of a query without instance in the class loss.
    """

    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    weights: Weights = (2.0, 5.0, 5.0)
    no_object_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise BuildError(
                f"points {self.points} and oversample {self.oversample} must be at least 1, "
                f"importance {self.importance} within 0..1"
            )
        if min(*self.weights, self.no_object_weight) < 0:
            raise BuildError(
                f"weights {self.weights} and no_object_weight {self.no_object_weight} "
                "must not be negative"
            )

    def sampler(self, generator: torch.Generator, frames: int = 1) -> Sampler:
        """Return what draws a mask's points for the loss; a clip's mask has them for each frame."""
        return partial(
            uncertain_points,
            count=self.points * frames,
            generator=generator,
            oversample=self.oversample,
            importance=self.importance,
        )

    def weigh(self, parts: Mapping[str, Ratio]) -> dict[str, Tensor | Ratio]:
        """Return the parts "class", "mask" and "dice", each times its worth."""
        worth: dict[str, float] = dict(zip(("class", "mask", "dice"), self.weights, strict=True))
        return {name: Ratio(part.sum * worth[name], part.count) for name, part in parts.items()}


def choose_role(inputs: Mapping[Role, FeatureSpec], on: Role | None, kind: type[Features]) -> Role:
    """Return the role that holds features of a kind: `on`, or the only one.

    Raises:
        BuildError: `on` is unknown or of another kind; none is of this kind; several are.
    """
    fitting = [role for role, spec in inputs.items() if issubclass(spec.type, kind)]
    if on is not None and on in fitting:
        return on
    have = ", ".join(f"{role}: {spec.type.__name__}" for role, spec in inputs.items()) or "none"
    if on is not None or not fitting:
        asked = "a role" if on is None else f"role {on!r}"
        raise BuildError(f"on: {asked} with {kind.__name__} is needed; there are {have}")
    if len(fitting) > 1:
        raise BuildError(f"on: several roles have {kind.__name__}: {', '.join(fitting)}; name one")
    return fitting[0]


def read(
    output: ModelOutput, batch: Batch, role: Role, kind: type[Kind]
) -> tuple[Kind, TrackTarget]:
    """Return a role's features and the target that they are compared with.

    Raises:
        TrainingError: Either is missing or of another type.
    """
    features = output.scope.get(role)
    if not isinstance(features, kind) or not isinstance(batch.target, TrackTarget):
        got = f"{type(features).__name__} and {type(batch.target).__name__}"
        raise TrainingError(f"role {role!r}: expected {kind.__name__} and TrackTarget, got {got}")
    return features, batch.target


def assign(
    layers: Sequence[Layer], instances: Instances, points: Tensor, weights: Weights
) -> Tensor:
    """Return each layer's query of each instance, `[L, V]` on the CPU; -1 where none is left.

    Every layer and row is matched on its own. All costs leave the device at once.

    Args:
        layers: In order.
        instances: Of all rows.
        points: `[1, P, 2]`, shared by all layers, rows and masks.
        weights: Worth of class, cross-entropy and Dice.

    Raises:
        TrainingError: A label is no class of the logits, or a cost is not finite.
    """
    queries = torch.full((len(layers), len(instances.rows)), -1)
    places = [(instances.rows == row).nonzero()[:, 0] for row in instances.rows.unique()]
    costs: list[Tensor] = []
    with torch.no_grad():
        truth = point_sample(instances.masks, points)  # [V, P]
        for layer in layers:
            _check_labels(instances, layer)
            for place in places:
                row, here = int(instances.rows[place[0]]), place.to(truth.device)
                labels = instances.labels[place].to(truth.device)
                at_points = point_sample(layer.masks[row], points)  # [Q, P]
                costs.append(
                    point_cost(layer.logits[row], at_points, labels, truth[here], weights=weights)
                )
    found = hungarian_many(costs)
    for turn, (rows, cols) in enumerate(found):
        layer, place = divmod(turn, len(places))
        queries[layer, places[place][cols]] = rows
    return queries


def _check_labels(instances: Instances, layer: Layer) -> None:
    classes = layer.logits.shape[-1] - 1
    highest = int(instances.labels.max()) if len(instances.labels) else -1
    if highest >= classes:
        raise TrainingError(f"target: label {highest}, but the logits have {classes} classes")


def set_losses(
    layers: Sequence[Layer],
    instances: Instances,
    queries: Tensor,
    sample: Sampler,
    *,
    no_object_weight: float = 0.1,
    valid: Tensor | None = None,
) -> dict[str, Ratio]:
    """Return the parts "class", "mask" and "dice", each summed over layers, unweighted.

    Divided by its count, a part is the sum over layers of that layer's loss: class terms are
    averaged by their weights, mask terms by the number of instances. Every layer matches equally
    many queries, so that one count holds for all.

    Args:
        layers: Deep supervision: all of them count alike.
        instances: Of all rows; their number is the count of the mask parts.
        queries: `[L, V]` from `assign`, on the CPU.
        sample: Draws the points of matched masks.
        no_object_weight: Class weight of queries without instance.
        valid: `[R]` bool, rows that count in the class loss; None: all.
    """
    parts: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
    weight: Tensor | float = 0.0
    for layer, chosen in zip(layers, queries, strict=True):
        targets = _class_targets(layer, instances, chosen)
        if valid is not None:
            targets = targets.masked_fill(~valid.flatten().to(targets.device)[:, None], -1)
        ratio = class_loss(layer.logits.flatten(0, 1), targets.flatten(), no_object_weight)
        entropy, dice = _mask_losses(layer, instances, chosen, sample)
        for name, value in zip(parts, (ratio.sum, entropy, dice), strict=True):
            parts[name].append(value)
        weight = ratio.count
    count = float(len(instances.rows))
    counts = {"class": weight, "mask": count, "dice": count}
    return {name: Ratio(torch.stack(values).sum(), counts[name]) for name, values in parts.items()}


def _class_targets(layer: Layer, instances: Instances, queries: Tensor) -> Tensor:
    """Return `[R, Q]` class indices; the last one where no instance is matched."""
    rows, count, classes = layer.logits.shape
    targets = torch.full((rows, count), classes - 1)
    matched = queries >= 0
    targets[instances.rows[matched], queries[matched]] = instances.labels[matched]
    return targets.to(layer.logits.device)


def _mask_losses(
    layer: Layer, instances: Instances, queries: Tensor, sample: Sampler
) -> tuple[Tensor, Tensor]:
    device, matched = layer.masks.device, queries >= 0
    rows, chosen = instances.rows[matched].to(device), queries[matched].to(device)
    logits = layer.masks[rows, chosen]  # [V, h, w]
    masks = instances.masks if bool(matched.all()) else instances.masks[matched.to(device)]
    return mask_point_losses(logits, masks, sample(logits))
