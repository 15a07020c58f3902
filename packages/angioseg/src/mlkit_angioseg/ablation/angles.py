"""The axis `angles`: the same weights, told other angles."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from mlkit_angioseg.frames.component import AngioFrames
from mlkit_core.build import build_metrics
from mlkit_core.errors import BuildError, DataError
from mlkit_core.tensors import to_device
from mlkit_core.training.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlkit_core.training.engine import Engine
    from mlkit_core.training.evaluation import Evaluation
    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Batch

Angles = tuple[float, float]
_FORBIDDEN = 1e6  # above any sum of costs within 0..1


def donors(angles: Mapping[str, Sequence[Angles]], seed: int) -> dict[str, str]:
    """Return for each cine the one whose angles it is told, a derangement.

    Each cine gives once. No frame is told the angles that it has, also where two cines share a
    view. Among all such exchanges one of random cost is taken.

    Args:
        angles: Cine to the angles of its frames, degrees; NaN where unknown.
        seed: Of the choice.

    Raises:
        DataError: There is no such exchange: too many cines share one view.
    """
    cines = sorted(angles)
    cost = np.random.default_rng(seed).random((len(cines), len(cines)))
    for i, cine in enumerate(cines):
        for j, donor in enumerate(cines):
            cost[i, j] += _FORBIDDEN * (i == j or _keeps(angles[cine], angles[donor]))
    own, given = linear_sum_assignment(cost)
    if cost[own, given].max(initial=0.0) >= _FORBIDDEN or len(cines) < 2:
        hint = "more than half of the cines share one view, or there is one cine alone"
        raise DataError("some cine would keep its own angles", hint=hint)
    return {cines[i]: cines[j] for i, j in zip(own, given, strict=True)}


def _keeps(own: Sequence[Angles], given: Sequence[Angles]) -> bool:
    return any(
        np.array_equal(angles, given[i % len(given)], equal_nan=True)
        for i, angles in enumerate(own)
    )


def told_angles(
    kind: str, frames: Mapping[str, tuple[str, Angles]], seed: int
) -> tuple[dict[str, Angles], dict[str, str]]:
    """Return each frame's key to the angles that the model is told, and who gave them.

    Args:
        kind: "true", "shuffled", "zero" or "flipped" (both angles negated).
        frames: Key to cine and angles in degrees, in the order of the frames of a cine.
        seed: Of "shuffled".

    Raises:
        DataError: Angles cannot be shuffled.
    """
    if kind == "true":
        return {key: angles for key, (_, angles) in frames.items()}, {}
    if kind == "zero":
        return dict.fromkeys(frames, (0.0, 0.0)), {}
    if kind == "flipped":
        return {key: (-first, -second) for key, (_, (first, second)) in frames.items()}, {}
    keys: dict[str, list[str]] = {}
    for key, (cine, _) in frames.items():
        keys.setdefault(cine, []).append(key)
    angles = {cine: [frames[key][1] for key in own] for cine, own in keys.items()}
    chosen = donors(angles, seed)
    told: dict[str, Angles] = {}
    for cine, own in keys.items():
        given = angles[chosen[cine]]
        told |= {key: given[i % len(given)] for i, key in enumerate(own)}
    return told, chosen


def frames_of(stage: Stage, split: str) -> dict[str, tuple[str, Angles]]:
    """Return key to cine and angles of a split's frames.

    Raises:
        BuildError: The data has no angles, or the model does not read them.
    """
    data = stage.data
    if not isinstance(data, AngioFrames):
        raise BuildError("angles are those of the data 'angio-frames'")
    if "view" not in stage.model.reads.values():
        raise BuildError("the base reads no view, so its angles change nothing")
    unknown = (np.nan, np.nan)
    return {row.key: (row.cine, row.angles or unknown) for row in data.rows() if row.split == split}


def evaluate_told(
    stage: Stage, engine: Engine, split: str, told: Mapping[str, Angles]
) -> Evaluation:
    """Return the metrics of a split with these angles in the place of the frames' own.

    Args:
        stage: Restored, its data bound.
        engine: At the stage's precision.
        split: Of the data.
        told: Frame's key to degrees.
    """

    def prepare(batch: Batch) -> Batch:
        views: NDArray[np.float32] = np.array([told[m.key] for m in batch.meta], np.float32)
        inputs = {**batch.inputs, "view": torch.from_numpy(views)}
        return to_device(replace(batch, inputs=inputs), engine.device)

    make = partial(
        build_metrics, stage.config.metrics, len(stage.classes), tuple(stage.data.classes)
    )
    return evaluate(stage.model, stage.data, make, split, engine, prepare=prepare)
