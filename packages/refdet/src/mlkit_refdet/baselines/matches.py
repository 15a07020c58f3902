"""What the baselines' heads share: roles, the pairs asked, their output and its decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision.ops import batched_nms

from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_by, choose_on
from mlkit_core.types import BoxPrediction, Features, FeatureSpec, HeadOutput
from mlkit_refdet.features import AskedFeatures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from mlkit_core.types import Prediction, Role, SampleMeta

_LEAD = ("class", "shot")


@dataclass(frozen=True)
class MatchedBoxes(HeadOutput):
    """The best places of each image and asked class, without gradient.

    Args:
        boxes_xyxy: `[B, W, M, 4]`, input pixels.
        scores: `[B, W, M]`, 0..1; 0 where there is no box.
        asked: `[B, W]` long, row of the support, -1 where there is none.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    asked: Tensor


@dataclass(frozen=True)
class MatchRoles:
    """The roles that a baseline reads; `asked` None: every image is asked about every class."""

    query: Role
    support: Role
    asked: Role | None

    @classmethod
    def choose(
        cls,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None,
        by: Role | None,
        fits: Callable[[FeatureSpec, FeatureSpec], bool],
        wants: str,
    ) -> MatchRoles:
        """Return the roles of a model.

        Args:
            inputs: Role to spec.
            on: Role of the query images, None for the first.
            by: Role of the reference photos, None for the one that fits.
            fits: Whether the query's spec and a support's can be compared.
            wants: What that asks for, for the error.

        Raises:
            BuildError: The query has a lead, or no support fits.
        """
        query = choose_on(inputs, on)
        if inputs[query].lead:
            lead = ", ".join(inputs[query].lead)
            raise BuildError(f"on: role {query!r} has lead ({lead}); queries are plain rows")
        support = choose_by(
            inputs,
            query,
            by,
            lambda spec: spec.lead == _LEAD and fits(inputs[query], spec),
            f"lead (class, shot) and {wants}",
        )
        asked = [role for role, spec in inputs.items() if issubclass(spec.type, AskedFeatures)]
        return cls(query, support, asked[0] if asked else None)

    def photos(self, scope: Mapping[Role, Features], levels: Sequence[str]) -> Features:
        """Return the features of the reference photos.

        Raises:
            BuildError: They lack one of the maps that are compared.
        """
        given = scope[self.support]
        missing = [level for level in levels if level not in given.maps]
        if missing:
            hint = "a .refset file holds no maps: give the photos themselves"
            what = f"role {self.support!r} came without maps, got no {', '.join(missing)}"
            raise BuildError(what, hint=hint)
        return given


def asked_classes(scope: Mapping[Role, Features], roles: MatchRoles, images: int) -> Tensor:
    """Return `[B, W]` long: which rows of the support each image is searched for, -1 for none."""
    support = scope[roles.support]
    if support.valid is None:
        raise BuildError(f"role {roles.support!r} has no `valid`, which tells classes and shots")
    vector = None if roles.asked is None else scope[roles.asked].vector
    if vector is None:
        device = support.valid.device
        return torch.arange(support.valid.shape[0], device=device).expand(images, -1)
    return vector.long()


def decode_matches(
    output: MatchedBoxes, meta: Sequence[SampleMeta], nms_iou: float, min_score: float
) -> list[Prediction]:
    """Return for each image the boxes above `min_score` after suppression, original pixels.

    Labels are rows of the support. A box of one class never suppresses one of another.
    """
    if len(meta) != len(output.boxes_xyxy):
        raise BuildError(f"{len(output.boxes_xyxy)} rows of boxes for {len(meta)} rows of meta")
    predictions: list[Prediction] = []
    labels = output.asked[..., None].expand_as(output.scores)
    for row, item in enumerate(meta):
        scores = output.scores[row].flatten().cpu()
        kept = scores > min_score
        boxes = output.boxes_xyxy[row].flatten(0, 1).cpu()[kept]
        found = labels[row].flatten().cpu()[kept]
        best = batched_nms(boxes, scores[kept], found, nms_iou)  # by falling score
        original = _to_original(boxes[best], item)
        predictions.append(BoxPrediction(original, scores[kept][best], found[best]))
    return predictions


def _to_original(boxes: Tensor, meta: SampleMeta) -> Tensor:
    if meta.letterbox is not None:
        top, left = meta.letterbox.offset
        boxes = (boxes - boxes.new_tensor([left, top, left, top])) / meta.letterbox.scale
    if meta.size is None:
        return boxes
    height, width = meta.size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def local_peaks(scores: Tensor, radius: int, most: int) -> tuple[Tensor, Tensor]:
    """Return the greatest local maxima of maps `[R, h, w]`: values and flat indices, `[R, most]`.

    Where there are fewer than `most`, values are 0.
    """
    side = 2 * radius + 1
    greatest = torch.nn.functional.max_pool2d(scores[:, None], side, 1, radius)[:, 0]
    peaks = torch.where(scores >= greatest, scores, 0.0).clamp_min(0).flatten(1)
    values, index = peaks.topk(min(most, peaks.shape[1]), dim=1)
    short = most - values.shape[1]
    if short > 0:
        values = torch.nn.functional.pad(values, (0, short))
        index = torch.nn.functional.pad(index, (0, short))
    return values, index
