"""The whole matrix, in blocks of rows: each a file of its own, so that any machine may make it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.distances.rows import RowsTask
from mlkit_cluster.store.matrix import write_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlkit_cluster.distances.rows import RowsRecipe
    from mlkit_cluster.engines.work import Engine

_log = logging.getLogger("mlkit.cluster")
ROWS_PER_BLOCK = 64


def compute_blocks(
    folder: Path,
    recipe: RowsRecipe,
    engine: Engine,
    blocks: Sequence[tuple[int, int]],
    fingerprint: str,
) -> Iterator[tuple[int, int]]:
    """Write the blocks, and yield each (row0, row1) once it is whole on the disk.

    Args:
        folder: The run's.
        recipe: What computes rows.
        engine: Where.
        blocks: (row0, row1) of those to make.
        fingerprint: Of the matrix; a block of another is never mixed in.
    """
    tasks = [RowsTask(row0, row1) for row0, row1 in blocks]
    for task, rows in engine.map(recipe, tasks):
        arrays = {
            name: np.stack([row[name] for row in rows]).astype(np.float32, copy=False)
            for name in recipe.components
        }
        write_block(folder, task.row0, task.row1, arrays, fingerprint)
        yield task.row0, task.row1
