"""A result file scored against an annotation file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_core.types import Batch, SampleMeta
from mlkit_dvis.clips.formats.rows import read_categories, read_object
from mlkit_dvis.clips.formats.ytvis import read_ytvis
from mlkit_dvis.clips.problems import Problems
from mlkit_dvis.metrics.component import TrackAp
from mlkit_dvis.metrics.found import read_results

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_dvis.metrics.hota import TrackHota


@dataclass(frozen=True)
class Scores:
    """What `mlkit dvis evaluate` tells.

    Args:
        total: Over all videos, by name.
        classes: A row for each annotated class.
        videos: A row for each video.
        left_out: Annotated videos that the results are not about.
    """

    total: dict[str, float]
    classes: list[dict[str, Any]]
    videos: list[dict[str, Any]]
    left_out: int


def score_results(found: Path, annotations: Path, *, hota: float | None = None) -> Scores:
    """Return the scores of a result file.

    Args:
        found: YouTube-VIS rows, or a `tracks.json`: then only its own video counts.
        annotations: YouTube-VIS JSON; frames need not be there.
        hota: Score from which a track counts for HOTA; None: no HOTA.

    Raises:
        DataError: A file is wrong; every problem at once.
        PluginError: HOTA without TrackEval.
    """
    clips = read_ytvis(annotations, annotations.parent, whole=True, check_files=False)
    categories = read_categories(read_object(annotations, (), ""), None, Problems(annotations))
    labels = {number: clips.classes.index(name) for number, name in categories.names.items()}
    results = read_results(found, clips, labels)
    metric = TrackAp(num_classes=len(clips.classes))
    extra = [] if hota is None else [_hota(len(clips.classes), hota)]
    for video in results.videos:
        meta = SampleMeta(key=video.name, extra={"num_frames": video.length})
        batch = Batch(inputs={}, meta=(meta,), target=video.target())
        for one in (metric, *extra):
            one.update(results.tracks[video.id], batch)
    total = dict(metric.compute())
    for one in extra:
        total |= one.compute()
    classes = [{"class": clips.classes[i], **row} for i, row in metric.by_class().items()]
    return Scores(total, classes, metric.rows(), len(clips.videos) - len(results.videos))


def _hota(num_classes: int, score: float) -> TrackHota:
    from mlkit_dvis.metrics.hota import TrackHota

    return TrackHota(num_classes, score)
