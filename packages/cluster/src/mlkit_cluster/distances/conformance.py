"""Whether the kernel still agrees with the installed library: asked before every run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.distances.rows import RowsTask, by_criterion, to_unit
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from mlkit_cluster.distances.rows import RowsWorker

_log = logging.getLogger("mlkit.cluster")
ROWS, COLUMNS = 8, 8


@dataclass(frozen=True)
class Conformance:
    """How far kernel and criterion were apart: `|kernel - criterion| / max(1, |criterion|)`."""

    pairs: int
    max_error: float
    component: str
    row: int
    column: int


def check_conformance(worker: RowsWorker, *, tolerance: float = 1e-5, seed: int = 0) -> Conformance:
    """Compare the kernel with the installed criterion at batch 1 on a sample of pairs.

    Args:
        worker: Whose detector, targets and kernel are asked.
        tolerance: Largest legal error, relative to the criterion where that is above 1.
        seed: Of the sample: random rows and columns, and the most crowded columns.

    Raises:
        MlkitError: They disagree, so that distances would not be what they are called.
    """
    worst = Conformance(0, 0.0, "", -1, -1)
    rows, columns = _sample(worker, seed)
    for row in rows:
        task = RowsTask(int(row), int(row) + 1, (columns,))
        images = worker.prepare(task)
        ours = worker.run(task, images)[0]
        raw = worker.detector(to_unit(images)).cpu()
        theirs = by_criterion(worker.detector, raw, worker.recipe.targets, columns)
        for name, values in ours.items():
            worst = _worse(worst, name, int(row), columns, values, theirs[name])
    found = Conformance(len(rows) * len(columns), *_rest(worst))
    _log.info(
        "kernel and criterion agree on %d pairs to %.1e relative", found.pairs, found.max_error
    )
    if not found.max_error <= tolerance:
        paths = worker.recipe.paths
        raise MlkitError(
            f"conformance: {found.component} of {paths[found.row].name} against "
            f"{paths[found.column].name}: kernel and ultralytics differ by {found.max_error:.1e} "
            f"relative, allowed {tolerance:.0e}",
            hint="`--kernel criterion` computes with ultralytics itself, slowly",
        )
    return found


def _rest(found: Conformance) -> tuple[float, str, int, int]:
    return found.max_error, found.component, found.row, found.column


def _sample(worker: RowsWorker, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    count = len(worker.recipe.paths)
    sizes = np.diff(worker.recipe.targets.starts)
    crowded = np.argsort(-sizes, kind="stable")[: COLUMNS // 2]
    drawn = generator.permutation(count)
    columns = list(dict.fromkeys([*crowded.tolist(), *drawn.tolist()]))[:COLUMNS]
    return generator.permutation(count)[:ROWS], np.asarray(columns, np.int64)


def _worse(
    worst: Conformance, name: str, row: int, columns: np.ndarray, ours: np.ndarray, ref: np.ndarray
) -> Conformance:
    """Return the worse of what is known and this component; one NaN without the other is worst."""
    both = np.isnan(ours) & np.isnan(ref)
    error = np.abs(ours - ref) / np.maximum(1, np.abs(ref))
    error = np.where(both, 0.0, np.where(np.isnan(error), np.inf, error))
    place = int(error.argmax())
    if error[place] <= worst.max_error and worst.row >= 0:
        return worst
    return Conformance(0, float(error[place]), name, row, int(columns[place]))
