"""Edges instead of all pairs: exact losses among images that are near by embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.matrices import unit_rows
from mlkit_cluster.analysis.neighbors import Candidates, candidates, recall_at, rows_to_check
from mlkit_cluster.distances.rows import RowsTask
from mlkit_cluster.store.edges import write_edges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_cluster.distances.rows import RowsRecipe, RowsWorker
    from mlkit_cluster.engines.work import Engine


@dataclass(frozen=True)
class EdgePlan:
    """Whose losses are computed.

    Args:
        found: Candidates of each image, near in either direction.
        vectors: `[N, D]`, of length 1; of an image with too many candidates the nearest stay.
        width: Most edges of an image.
    """

    found: Candidates
    vectors: np.ndarray
    width: int

    def of(self, image: int) -> np.ndarray:
        """Return an image's columns, ascending, `[K]` int64."""
        columns = self.found.of(image).astype(np.int64)
        if len(columns) <= self.width:
            return columns
        near = self.vectors[columns] @ self.vectors[image]
        return np.sort(columns[np.argsort(-near, kind="stable")[: self.width]])


def plan_edges(vectors: np.ndarray, count: int) -> EdgePlan:
    """Return who is compared with whom: `count` nearest of each, and those that name it so.

    An image that very many name keeps the nearest of them, so that rows have twice `count` columns
    at most; of such a pair one direction may be missing.

    Args:
        vectors: Embeddings `[N, D]` in matrix order.
        count: Nearest images by cosine.
    """
    return EdgePlan(candidates(vectors, count), unit_rows(vectors), min(2 * count, len(vectors)))


def compute_edges(
    folder: Path,
    recipe: RowsRecipe,
    engine: Engine,
    blocks: Sequence[tuple[int, int]],
    fingerprint: str,
    plan: EdgePlan,
) -> Iterator[tuple[int, int]]:
    """Write the blocks of edges, and yield each (row0, row1) once it is whole on the disk.

    Args:
        folder: The run's.
        recipe: What computes rows.
        engine: Where.
        blocks: (row0, row1) of those to make.
        fingerprint: Of the distances.
        plan: Who is compared with whom.
    """
    tasks = [RowsTask(a, b, tuple(plan.of(row) for row in range(a, b))) for a, b in blocks]
    for task, rows in engine.map(recipe, tasks):
        columns, arrays = _padded(task, rows, recipe.components, plan.width)
        write_edges(folder, (task.row0, task.row1), columns, arrays, fingerprint)
        yield task.row0, task.row1


def _padded(
    task: RowsTask, rows: Sequence[Mapping[str, np.ndarray]], names: Sequence[str], width: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    columns = np.full((len(rows), width), -1, np.int32)
    arrays = {name: np.full((len(rows), width), np.nan, np.float32) for name in names}
    for place, (wanted, row) in enumerate(zip(task.columns or (), rows, strict=True)):
        columns[place, : len(wanted)] = wanted
        for name in names:
            arrays[name][place, : len(wanted)] = row[name]
    return columns, arrays


def measure_recall(
    worker: RowsWorker, plan: EdgePlan, gains: Mapping[str, float], *, rows: int = 200, k: int = 10
) -> float:
    """Return recall@k of the candidates against whole rows of random images, 0..1.

    Args:
        worker: Computes the rows.
        plan: Whose candidates are judged.
        gains: Weight of each component in the total by which images are near.
        rows: Random images.
        k: Nearest images by total loss.
    """
    count = len(worker.recipe.paths)
    images = rows_to_check(count, rows)
    totals = np.empty((len(images), count), np.float32)
    for place, row in enumerate(images):
        task = RowsTask(int(row), int(row) + 1)
        losses = worker.run(task, worker.prepare(task))[0]
        totals[place] = sum(np.float32(gains[name]) * values for name, values in losses.items())
        totals[place, row] = np.nan
    return recall_at(plan.found, images, totals, min(k, count - 1))
