"""Searching frames with a trained model and a reference set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import BuildError
from mlkit_core.tensors import to_device, to_float32
from mlkit_core.training.evaluation import evaluating
from mlkit_core.types import Batch, BoxPrediction, SampleMeta
from mlkit_refdet.episodes.letterbox import fit, to_square
from mlkit_refdet.head.decoding import as_prediction, pair_candidates
from mlkit_refdet.head.dual import DualHead
from mlkit_refdet.search.temporal import Detection
from mlkit_refdet.search.tiling import merged, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.references.enrolling import Finder
    from mlkit_refdet.references.reference_set import ReferenceSet
    from mlkit_refdet.search.config import SearchOptions
    from mlkit_refdet.search.tiling import Window

_LARGE = 1.5


class Searcher:
    """Finds the objects of a reference set in frames; photos are never encoded again.

    Args:
        finder: The model.
        references: Of the same encoder.
        options: How a frame is searched.

    Raises:
        InputError: The set was made by another encoder.
        BuildError: The model does not look for what photos show.
    """

    def __init__(self, finder: Finder, references: ReferenceSet, options: SearchOptions) -> None:
        references.check(finder.model.encoders[finder.role])
        head = finder.model.head
        if head is None or (isinstance(head, DualHead) and head.mode == "standard"):
            hint = "train it with `mode: prototype` or `mode: dual`"
            raise BuildError(
                "head: detects the data's own classes, not what photos show", hint=hint
            )
        self._finder, self._options, self._head = finder, options, head
        self._known = references.to(finder.device).features
        self._asked = torch.arange(len(references.names), dtype=torch.float32)

    def __call__(self, frames: Sequence[Pixels]) -> list[list[Detection]]:
        """Return what each of some frames `[H, W, 3]` uint8 RGB shows, best first."""
        places = [self._windows(frame.shape[0], frame.shape[1]) for frame in frames]
        crops = [
            frame[top:bottom, left:right]
            for frame, own in zip(frames, places, strict=True)
            for left, top, right, bottom in own
        ]
        found: list[BoxPrediction] = []
        with evaluating(self._finder.model):
            for start in range(0, len(crops), self._options.batch):
                found += self._searched(crops[start : start + self._options.batch])
        results, start = [], 0
        for frame, own in zip(frames, places, strict=True):
            size = (frame.shape[0], frame.shape[1])
            results.append(_detections(merged(found[start : start + len(own)], own, size)))
            start += len(own)
        return results

    def _windows(self, height: int, width: int) -> list[Window]:
        side, tiles = self._finder.data.loader.side, self._options.tiles
        if tiles == "auto":
            tiles = side if max(height, width) > _LARGE * side else "off"
        if tiles == "off":
            return [(0, 0, width, height)]
        return windows(height, width, tiles, self._options.overlap)

    def _searched(self, crops: Sequence[Pixels]) -> list[BoxPrediction]:
        loader, images, metas = self._finder.data.loader, [], []
        for crop in crops:
            size = (crop.shape[0], crop.shape[1])
            box = fit(size, loader.side)
            images.append(to_square(crop, box, loader.side, loader.pad))
            metas.append(SampleMeta(key="crop", size=size, letterbox=box))
        batch = Batch(
            inputs={
                "query": torch.stack(images).float().div_(255),
                "asked": self._asked.expand(len(images), -1),
            },
            meta=tuple(metas),
            features={self._finder.role: self._known},
            kind="detection",
        )
        output = to_float32(self._finder.model(to_device(batch, self._finder.device))).head
        return self._decoded(output, metas)

    def _decoded(self, output: object, metas: Sequence[SampleMeta]) -> list[BoxPrediction]:
        """Return predictions from `conf` on; another head than `dual` decodes as it does."""
        least = self._options.conf
        if isinstance(self._head, DualHead):
            options = {**self._head.read_out, "conf": least}
            return [
                as_prediction(pair_candidates(output, row), meta, **options)  # pyright: ignore[reportArgumentType]  # the head's own
                for row, meta in enumerate(metas)
            ]
        every = self._head.decode(output, metas)  # pyright: ignore[reportCallIssue]  # a Head
        return [
            BoxPrediction(*(part[one.scores >= least] for part in _parts(one))) for one in every
        ]


def _parts(one: BoxPrediction) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return one.boxes_xyxy, one.scores, one.labels


def _detections(found: BoxPrediction) -> list[Detection]:
    rows = zip(*(part.tolist() for part in _parts(found)), strict=True)
    return [Detection(tuple(box), score, label) for box, score, label in rows]
