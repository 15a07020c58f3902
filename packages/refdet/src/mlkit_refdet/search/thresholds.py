"""Which scores count: what a run's own validation says of its false alarms."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from mlkit_core.report.folder import read_folder
from mlkit_refdet.search.config import TrackOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOG = logging.getLogger("mlkit.refdet")
_SCORE = ".score_fp10"
# Of high. Canny, "A Computational Approach to Edge Detection", 1986, has 1/3 to 1/2.
_SHARE = 0.4


def measured(folder: Path, checkpoint: str, stage: str) -> float | None:
    """Return the score from which a validated checkpoint has 0.1 false alarms a frame and object.

    Args:
        folder: Of the run.
        checkpoint: Its name, `step-…`.
        stage: That it is of.

    Returns:
        None where its validation did not measure it; the metric `false-alarms` does.
    """
    found = None
    for values in _validations(folder, checkpoint, stage):
        for name, value in values.items():
            found = float(value) if name.endswith(_SCORE) else found
    return found


def _validations(folder: Path, checkpoint: str, stage: str) -> Iterator[Mapping[str, Any]]:
    """Yield the metrics of a checkpoint on the validation split, the newest last."""
    record, step = read_folder(folder), re.match(r"step-(\d+)", checkpoint)
    for line in record.of_kind("val"):
        if step and line.get("step") == int(step[1]) and line.get("stage") == stage:
            yield line
    own = record.evaluations.get("val", {})
    if own.get("checkpoint") == checkpoint:
        yield own.get("metrics", {})


def track_options(
    options: TrackOptions, folder: Path, provenance: Mapping[str, object], *, least: float
) -> TrackOptions:
    """Return how detections become tracks, `high` and `low` by the run's validation.

    Those that `options` were given stay. From `high` on, single frames have one false alarm in ten
    frames and objects; `low` is 0.4 of it. Neither is below `least`, the least score of a
    detection. Without such a validation the usual ones stand, and a line says so.

    Args:
        options: Of which some may be given.
        folder: Of the run.
        provenance: Of the model: its `checkpoint` and `stage`.
        least: See above.
    """
    given = options.model_fields_set
    if {"high", "low"} <= given:
        return options
    score = measured(folder, str(provenance["checkpoint"]), str(provenance["stage"]))
    if score is None and "high" not in given:
        how = "`mlkit eval` with the metric false-alarms on split val measures one"
        LOG.warning("threshold: high %g is a guess; %s", options.high, how)
    high = options.high if "high" in given or score is None else max(score, least)
    low = options.low if "low" in given else max(_SHARE * high, least)
    LOG.info("thresholds: high %.3f, low %.3f", high, low)
    return TrackOptions.model_validate(options.model_dump() | {"high": high, "low": low})
