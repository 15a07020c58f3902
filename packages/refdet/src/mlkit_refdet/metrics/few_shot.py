"""The metric `few-shot`: average precision over episodes, with its confidence interval."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from mlkit_core.errors import BuildError, DataError
from mlkit_refdet.metrics.coco import coco_scores
from mlkit_refdet.metrics.frames import AskedFrame, asked_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Batch, Prediction

LOG = logging.getLogger("mlkit")


@dataclass(frozen=True)
class EpisodeScores:
    """One episode: AP at IoU .5 of each class with a true box in it, and its reference photos.

    Args:
        ap50: Class to average precision.
        shots: Reference photos of a class, the fewest of all classes; 0: not known.
    """

    ap50: Mapping[int, float]
    shots: int


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean, by Student's t; None below two values.

    Mean -/+ t(.975, n - 1) s / sqrt(n), s the sample's standard deviation.
    """
    if len(values) < 2:
        return None
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


class FewShot:
    """Gathers images by episode; AP is of each episode alone, then averaged over episodes.

    An episode is what `meta.extra`'s "episode" says: one draw of classes, of their reference
    photos and of images. `map50` is the mean over the episode's classes, `map50_novel` that over
    the novel ones, `map50_base` over the others; `map50_k3` is of the episodes with three photos a
    class, where episodes differ. Each has `_low` and `_high`, its 95 % interval over episodes.

    Args:
        novel: Names of the classes that training never saw.
        max_boxes: Boxes that count of one image and class, best first.
        classes: Names of all classes; needed where `novel` names any.
    """

    def __init__(
        self,
        novel: Sequence[str] = (),
        max_boxes: int = 100,
        classes: Sequence[str] | None = None,
    ) -> None:
        known = tuple(classes or ())
        unknown = sorted({*novel} - {*known})
        if unknown:
            have = ", ".join(known) or "no names"
            raise BuildError(f"novel: no class {', '.join(unknown)}; the data has {have}")
        self.max_boxes, self._names = max_boxes, known
        self._novel = {known.index(name) for name in novel}
        self._frames: list[tuple[str, AskedFrame]] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the images of a batch.

        Raises:
            DataError: An image does not say its episode.
        """
        for frame in asked_frames("few-shot", predictions, batch):
            episode = frame.extra.get("episode")
            if episode is None:
                hint = "evaluate by episodes, or drop the metric few-shot"
                raise DataError(f"few-shot: {frame.key}: is of no episode", hint=hint)
            self._frames.append((str(episode), frame))

    def state(self) -> list[tuple[str, AskedFrame]]:
        """Return the images so far, with their episodes."""
        return list(self._frames)

    def merge(self, state: Sequence[tuple[str, AskedFrame]]) -> None:
        """Add another rank's images."""
        self._frames += state

    def compute(self) -> Mapping[str, float]:
        """Return means over episodes and their intervals; episodes without a true box have none."""
        episodes = self._episodes()
        scored = [episode for episode in episodes if episode.ap50]
        if len(scored) < len(episodes):
            count = len(episodes) - len(scored)
            LOG.info("few-shot: %d of %d episodes show no object", count, len(episodes))
        values = self._summary("map50", scored, lambda label: True)
        if self._novel:
            values |= self._summary("map50_base", scored, lambda label: label not in self._novel)
            values |= self._summary("map50_novel", scored, lambda label: label in self._novel)
        shots = sorted({episode.shots for episode in scored} - {0})
        for k in shots if len(shots) > 1 else ():
            alike = [episode for episode in scored if episode.shots == k]
            values |= self._summary(f"map50_k{k}", alike, lambda label: True)
        values["episodes"] = float(len(episodes))
        return values | ({"shots": float(shots[0])} if len(shots) == 1 else {})

    def _summary(
        self,
        name: str,
        episodes: Sequence[EpisodeScores],
        chosen: Any,  # noqa: ANN401
    ) -> dict[str, float]:
        kept = [[v for label, v in e.ap50.items() if chosen(label)] for e in episodes]
        means = [sum(values) / len(values) for values in kept if values]
        if not means:
            return {}
        limits = interval(means)
        values = {name: sum(means) / len(means)}
        return values if limits is None else values | _limits(name, limits)

    def _episodes(self) -> list[EpisodeScores]:
        """Return the episodes in order of their name."""
        grouped: dict[str, list[AskedFrame]] = defaultdict(list)
        for episode, frame in self._frames:
            grouped[episode].append(frame)
        return [self._episode(grouped[name]) for name in sorted(grouped)]

    def _episode(self, frames: Sequence[AskedFrame]) -> EpisodeScores:
        scores = coco_scores(frames, self.max_boxes)
        found = {c: scores.ap(level=0, kept=[i]) for i, c in enumerate(scores.classes)}
        shots = [count for frame in frames for count in frame.shots]
        known = {label: value for label, value in found.items() if not math.isnan(value)}
        return EpisodeScores(known, min(shots, default=0))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each class: its AP over the episodes that show it."""
        values: dict[int, list[float]] = defaultdict(list)
        for episode in self._episodes():
            for label, value in episode.ap50.items():
                values[label].append(value)
        return [self._row(label, values[label]) for label in sorted(values)]

    def _row(self, label: int, values: Sequence[float]) -> dict[str, Any]:
        low, high = interval(values) or ("", "")
        row: dict[str, Any] = {
            "metric": "few-shot",
            "key": self._names[label] if self._names else str(label),
            "map50": round(sum(values) / len(values), 4),
            "map50_low": low,
            "map50_high": high,
            "episodes": len(values),
        }
        return row | ({"classes": _side(label in self._novel)} if self._novel else {})


def _side(novel: bool) -> str:
    return "novel" if novel else "base"


def _limits(name: str, limits: tuple[float, float]) -> dict[str, float]:
    return {f"{name}_low": limits[0], f"{name}_high": limits[1]}
