"""Head `prototype-match`: where frozen features resemble those of the reference photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from mlkit_core.types import Example, Features, FeatureSpec
from mlkit_refdet.baselines.box_contrast import box_contrast
from mlkit_refdet.baselines.config import SIZES
from mlkit_refdet.baselines.matches import (
    MatchedBoxes,
    MatchRoles,
    asked_classes,
    decode_matches,
    local_peaks,
)
from mlkit_refdet.features import AskedFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from torch import Tensor

    from mlkit_core.types import Prediction, Role, SampleMeta


class PrototypeMatch(nn.Module):
    """Matches maps of two encoders of equal widths; it has no parameters and learns nothing.

    A photo's prototype at a level is the mean of its map over the foreground. The query's cosine
    with it, averaged over levels at twice the finest resolution, is a map of resemblance. At each
    of its cells boxes of all sizes, with the photos' aspect ratio, are compared with the ring
    around them: the best is the one whose mean exceeds the ring's the most, and boxes stay where
    that is greatest among neighbours. A box scores the resemblance at its middle; a negative one
    is no match.

    Args:
        inputs: Role to spec, as build gives it.
        on: Role of the query images.
        by: Role of the reference photos.
        levels: Maps that are compared; none: all that both have in equal width.
        sizes: Longer sides of the object, input pixels.
        shots: "mean" of unit prototypes, or "max" of the photos' cosines.
        center: Subtract the image's mean feature from map and prototype before the cosine.
        ring: Side of the ring, in sides of the box.
        turned: Try the photos' aspect ratio and its inverse.
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
        levels: Sequence[str] = (),
        sizes: Sequence[float] = SIZES,
        shots: Literal["mean", "max"] = "mean",
        center: bool = True,
        ring: float = 1.8,
        turned: bool = True,
        max_boxes: int = 50,
        nms_iou: float = 0.3,
        min_score: float = 0.0,
    ) -> None:
        super().__init__()

        at = f" at {', '.join(levels)}" if levels else ""
        wants = f"maps of the query's widths{at}"
        least = len(levels) or 1
        self.roles = MatchRoles.choose(
            inputs,
            on,
            by,
            lambda query, support: len(_common(query, support, levels)) >= least,
            wants,
        )
        query, support = inputs[self.roles.query], inputs[self.roles.support]
        self.levels = _common(query, support, levels)
        self.stride = query.strides[self.levels[0]] / 2
        self.sizes, self.shots, self.center = tuple(sizes), shots, center
        self.ring, self.turned = ring, turned
        self.max_boxes, self.nms_iou, self.min_score = max_boxes, nms_iou, min_score

    @torch.no_grad()
    def forward(self, scope: Mapping[Role, Features]) -> MatchedBoxes:
        """Return the best places of each image and asked class."""
        query, support = scope[self.roles.query], self.roles.photos(scope, self.levels)
        images = len(query.maps[self.levels[0]])
        asked = asked_classes(scope, self.roles, images)  # [B, W]
        alike = self.resemblance(query, support)  # [B, N, h, w]
        aspects = _aspects(support)  # [N]
        boxes = alike.new_zeros(*asked.shape, self.max_boxes, 4)
        scores = alike.new_zeros(*asked.shape, self.max_boxes)
        for label in (int(label) for label in asked.unique() if label >= 0):
            if not bool(support.valid[label].any()):  # pyright: ignore[reportOptionalSubscript]  # asked_classes checked it
                continue
            rows, columns = (asked == label).nonzero(as_tuple=True)
            found = self._search(alike[rows, label], float(aspects[label]))
            boxes[rows, columns], scores[rows, columns] = found
        return MatchedBoxes(boxes, scores, asked)

    def resemblance(self, query: Features, support: Features) -> Tensor:
        """Return the mean cosine over levels `[B, N, h, w]`, of stride `self.stride`."""
        finest = query.maps[self.levels[0]]
        size = [2 * side for side in finest.shape[2:]]
        total = finest.new_zeros(1)
        for level in self.levels:
            cosine = self._cosine(query.maps[level].float(), support, level)
            total = total + functional.interpolate(
                cosine, size, mode="bilinear", align_corners=False
            )
        return total / len(self.levels)

    def _cosine(self, maps: Tensor, support: Features, level: str) -> Tensor:
        """Return the cosine of each cell with each class's prototype, `[B, N, h, w]`."""
        valid = support.valid
        photos = foreground_mean(support.maps[level].float(), support.mask)[None]  # [1, N * K, C]
        if self.center:
            mean = maps.mean((2, 3))  # [B, C]
            maps, photos = maps - mean[:, :, None, None], photos - mean[:, None]
        photos = functional.normalize(photos, dim=2).unflatten(1, valid.shape)  # [B, N, K, C]  # pyright: ignore[reportOptionalMemberAccess,reportArgumentType]
        photos, unit = photos.expand(len(maps), -1, -1, -1), functional.normalize(maps, dim=1)
        if self.shots == "mean":
            of_class = (photos * valid[..., None]).sum(2)  # pyright: ignore[reportOptionalSubscript]
            return torch.einsum("bchw,bnc->bnhw", unit, functional.normalize(of_class, dim=2))
        every = torch.einsum("bchw,bnkc->bnkhw", unit, photos)
        return every.masked_fill(~valid[None, :, :, None, None], -1.0).amax(2)  # pyright: ignore

    def _search(self, alike: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
        """Return boxes `[R, M, 4]` and scores `[R, M]` of one class in maps `[R, h, w]`."""
        height, width = alike.shape[1:]
        shapes = alike.new_tensor(self._shapes(aspect)) / self.stride  # [S, 2], cells
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([x, y], -1).to(alike).view(-1, 1, 2) + 0.5  # [h * w, 1, 2]
        boxes = torch.cat([centres - shapes / 2, centres + shapes / 2], -1)  # [h * w, S, 4]
        inside, around = box_contrast(alike, boxes.view(-1, 4), self.ring)  # [R, h * w * S]
        contrast = (inside - around).view(len(alike), -1, len(shapes))
        best = contrast.argmax(2, keepdim=True)  # [R, h * w, 1]
        gained = contrast.gather(2, best)[..., 0].view_as(alike)
        _, index = local_peaks(gained, 1, self.max_boxes)  # [R, M]
        chosen = best[..., 0].gather(1, index)
        places = boxes[index, chosen] * self.stride
        return places, alike.flatten(1).gather(1, index).clamp(0, 1)

    def _shapes(self, aspect: float) -> list[tuple[float, float]]:
        """Return widths and heights to try, in input pixels; `aspect` is width by height."""
        aspects = {aspect, 1 / aspect} if self.turned else {aspect}
        every = [(min(a, 1.0), min(1 / a, 1.0)) for a in sorted(aspects)]
        return [(size * w, size * h) for size in self.sizes for w, h in every]

    def decode(self, output: MatchedBoxes, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return boxes in original pixels; labels are rows of the support."""
        return decode_matches(output, meta, self.nms_iou, self.min_score)


def _common(query: FeatureSpec, support: FeatureSpec, levels: Sequence[str]) -> tuple[str, ...]:
    """Return the levels, fine to coarse, that both have in equal width, of `levels` if any."""
    return tuple(
        level
        for level, width in query.channels.items()
        if support.channels.get(level) == width and (not levels or level in levels)
    )


def foreground_mean(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of each map over its foreground, `[R, C]`; over all of it without a mask.

    Args:
        maps: `[R, C, h, w]`.
        mask: `[R, H, W]`; a row that is empty counts as none.
    """
    if mask is None:
        return maps.mean((2, 3))
    height, width = maps.shape[2:]
    weight = functional.adaptive_avg_pool2d(mask[:, None].to(maps.dtype), (height, width))
    empty = weight.sum((1, 2, 3), keepdim=True) == 0
    weight = torch.where(empty, torch.ones_like(weight), weight)
    return (maps * weight).sum((2, 3)) / weight.sum((2, 3))


def _aspects(support: Features) -> Tensor:
    """Return each class's median width by height of the foreground, `[N]`; 1 without masks."""
    valid = support.valid
    if valid is None or support.mask is None:
        return torch.ones(0 if valid is None else len(valid))
    wide, high = ((support.mask > 0.5).any(dim).sum(1) for dim in (1, 2))  # [R] both
    ratio = torch.where(high > 0, wide / high.clamp_min(1), 1.0).view(valid.shape)
    return ratio.masked_fill(~valid, float("nan")).nanmedian(1).values.nan_to_num(1.0)


def example(folder: Path) -> Example:
    """Return two images, two classes of two photos (one of them padding), and what is asked."""
    del folder
    channels, strides = {"p3": 8, "p4": 12}, {"p3": 8, "p4": 16}
    spec = FeatureSpec(channels=channels, strides=strides)
    lead = FeatureSpec(channels=channels, strides=strides, lead=("class", "shot"))
    inputs = {
        "query": spec,
        "support": lead,
        "asked": FeatureSpec(vector_dim=2, type=AskedFeatures),
    }
    sizes = {"p3": 8, "p4": 4}
    scope = {
        "query": Features(maps={k: torch.randn(2, channels[k], v, v) for k, v in sizes.items()}),
        "support": Features(
            maps={k: torch.randn(4, channels[k], v // 2, v // 2) for k, v in sizes.items()},
            valid=torch.tensor([[True, True], [True, False]]),
        ),
        "asked": AskedFeatures(vector=torch.tensor([[0.0, 1.0], [1.0, -1.0]])),
    }
    options = {"sizes": (16.0, 32.0), "max_boxes": 4}
    return Example(options=options, args=(scope,), context={"inputs": inputs, "on": "query"})
