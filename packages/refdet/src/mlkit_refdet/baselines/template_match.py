"""Head `template-match`: where cut-outs of the reference photos correlate with the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from mlkit_core.types import Example, Features, FeatureSpec
from mlkit_refdet.baselines.config import SIZES
from mlkit_refdet.baselines.correlation import Templates, cut_templates, masked_ncc
from mlkit_refdet.baselines.matches import (
    MatchedBoxes,
    MatchRoles,
    asked_classes,
    decode_matches,
    local_peaks,
)
from mlkit_refdet.baselines.pixels import LEVEL
from mlkit_refdet.features import AskedFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from mlkit_core.types import Prediction, Role, SampleMeta

_CHUNK = 8  # templates correlated at a time: bounds memory


class TemplateMatch(nn.Module):
    """Multi-scale template matching; it has no parameters.

    Each reference photo is cut out by its mask, resized and turned. For each size that is tried the
    image is resized so that an object of that size meets the template. A place's score is the
    greatest correlation over photos, rotations and sizes; negative ones are no match.

    Args:
        inputs: Role to spec, as build gives it.
        on: Role of the query images.
        by: Role of the reference photos.
        template_px: Longer side of the template, pixels.
        sizes: Longer sides of the object, input pixels.
        rotations: Rotations in the plane.
        contrast: A fainter likeness is less of a match; false: the plain coefficient.
        max_boxes: Kept of one image and class, before suppression.
        nms_iou: Of the suppression within one class.
        min_score: Boxes must score higher.
    """

    output_type = MatchedBoxes
    compares_maps = True  # of the photos: a reference set without maps does not serve

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        by: Role | None = None,
        *,
        template_px: int = 24,
        sizes: Sequence[float] = SIZES,
        rotations: int = 8,
        contrast: bool = True,
        max_boxes: int = 50,
        nms_iou: float = 0.3,
        min_score: float = 0.0,
    ) -> None:
        super().__init__()
        wants = f"the map {LEVEL!r} of encoder pixels, as the query"
        self.roles = MatchRoles.choose(inputs, on, by, _has_pixels, wants)
        self.template_px, self.sizes, self.rotations = template_px, tuple(sizes), rotations
        self.contrast = contrast
        self.max_boxes, self.nms_iou, self.min_score = max_boxes, nms_iou, min_score

    @torch.no_grad()
    def forward(self, scope: Mapping[Role, Features]) -> MatchedBoxes:
        """Return the best places of each image and asked class."""
        images = scope[self.roles.query].maps[LEVEL].float()  # [B, 3, H, W]
        asked = asked_classes(scope, self.roles, len(images))  # [B, W]
        wanted = [int(label) for label in asked.unique() if label >= 0]
        photos = self.roles.photos(scope, (LEVEL,))
        cut = {label: self._templates(photos, label) for label in wanted}
        boxes = images.new_zeros(*asked.shape, self.max_boxes, 4)
        scores = images.new_zeros(*asked.shape, self.max_boxes)
        for row, column in (asked >= 0).nonzero().tolist():
            templates = cut[int(asked[row, column])]
            if templates is not None:
                boxes[row, column], scores[row, column] = self._search(images[row], templates)
        return MatchedBoxes(boxes, scores, asked)

    def _templates(self, support: Features, label: int) -> Templates | None:
        """Return one class's templates, None where it has no photo."""
        photos = support.maps[LEVEL].float()
        shots = torch.arange(len(photos), device=photos.device).view(support.valid.shape)  # pyright: ignore[reportOptionalMemberAccess]  # asked_classes checked it
        rows = shots[label][support.valid[label]]  # pyright: ignore[reportOptionalSubscript]
        masks = support.mask if support.mask is not None else torch.ones_like(photos[:, 0])
        if not len(rows):
            return None
        return cut_templates(photos[rows], masks[rows], self.template_px, self.rotations)

    def _search(self, image: Tensor, templates: Templates) -> tuple[Tensor, Tensor]:
        """Return boxes `[M, 4]` and scores `[M]` of one image and class, over all sizes."""
        found = [self._at_size(image, templates, size) for size in self.sizes]
        scores = torch.cat([scores for _, scores in found])
        best = scores.topk(self.max_boxes).indices
        return torch.cat([boxes for boxes, _ in found])[best], scores[best]

    def _at_size(self, image: Tensor, templates: Templates, size: float) -> tuple[Tensor, Tensor]:
        """Return the best places of objects of one size."""
        height, width = image.shape[1:]
        scale = templates.side / size
        shape = [max(round(length * scale), 1) for length in (height, width)]
        small = functional.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
        score, which = self._best(small, templates)  # [h, w] both
        values, index = local_peaks(score[None], max(templates.side // 4, 1), self.max_boxes)
        rows, columns = index[0] // shape[1], index[0] % shape[1]
        ratio = small.new_tensor([width / shape[1], height / shape[0]])
        centres = (torch.stack([columns, rows], 1) + 0.5) * ratio
        boxes = templates.boxes[which.flatten()[index[0]]] * ratio.repeat(2)
        return boxes + centres.repeat(1, 2), values[0]

    def _best(self, image: Tensor, templates: Templates) -> tuple[Tensor, Tensor]:
        """Return the greatest correlation at each pixel, and the template that it comes from."""
        score = image.new_full(image.shape[1:], -1.0)
        which = torch.zeros(image.shape[1:], dtype=torch.long, device=image.device)
        for start in range(0, len(templates.pixels), _CHUNK):
            few = templates[start : start + _CHUNK]
            values, index = masked_ncc(image, few, contrast=self.contrast).max(0)
            better = values > score
            score = torch.where(better, values, score)
            which = torch.where(better, index + start, which)
        return score, which

    def decode(self, output: MatchedBoxes, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return boxes in original pixels; labels are rows of the support."""
        return decode_matches(output, meta, self.nms_iou, self.min_score)


def _has_pixels(query: FeatureSpec, support: FeatureSpec) -> bool:
    return all(spec.strides.get(LEVEL) == 1 for spec in (query, support))


def example(folder: Path) -> Example:
    """Return two images, two classes of two photos (one of them padding), and what is asked."""
    del folder
    spec = FeatureSpec(channels={LEVEL: 3}, strides={LEVEL: 1})
    lead = FeatureSpec(channels={LEVEL: 3}, strides={LEVEL: 1}, lead=("class", "shot"))
    inputs = {
        "query": spec,
        "support": lead,
        "asked": FeatureSpec(vector_dim=2, type=AskedFeatures),
    }
    photos = torch.rand(4, 3, 24, 24)
    scope = {
        "query": Features(maps={LEVEL: torch.rand(2, 3, 48, 64)}),
        "support": Features(
            maps={LEVEL: photos}, valid=torch.tensor([[True, True], [True, False]])
        ),
        "asked": AskedFeatures(vector=torch.tensor([[0.0, 1.0], [1.0, -1.0]])),
    }
    options = {"sizes": (16.0, 24.0), "template_px": 8, "rotations": 2, "max_boxes": 4}
    return Example(options=options, args=(scope,), context={"inputs": inputs, "on": "query"})
