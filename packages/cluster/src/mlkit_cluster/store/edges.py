"""Mode "knn": for each row K columns and their distances, instead of all columns.

`dist/edges-columns-{row0:08d}.npy` holds `[rows, K]` int32, -1 where a row has fewer;
`dist/edges-{component}-{row0:08d}.npy` the distances, and `dist/edges-{row0:08d}.json` all names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.matrix import write_arrays
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_cluster.store.matrix import Matrix

COLUMNS = "columns"


def write_edges(
    folder: Path,
    rows: tuple[int, int],
    columns: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    fingerprint: str,
) -> None:
    """Write a block of edges, then its manifest; needs no database.

    Args:
        folder: The run's.
        rows: First row and one past the last.
        columns: `[rows, K]`, stored as int32; -1 fills rows that have fewer edges.
        arrays: Component to `[rows, K]`, stored as float32.
        fingerprint: Of the distances.

    Raises:
        MlkitError: A shape is wrong, or the disk is full.
    """
    files = {COLUMNS: np.ascontiguousarray(columns, "<i4")}
    files |= {name: np.ascontiguousarray(values, "<f4") for name, values in arrays.items()}
    write_arrays(folder, "edges", rows, files, fingerprint)


@dataclass(frozen=True)
class Edges:
    """Edges of all rows, read when asked for.

    Args:
        columns: `[N, K]` int32, -1 where there is no edge.
        components: Component to `[N, K]` float32.
    """

    columns: Matrix
    components: Mapping[str, Matrix]

    def __len__(self) -> int:
        return len(self.columns)

    def rows(self, row0: int, row1: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return columns `[rows, K]` and component to distances of rows `row0` to `row1`."""
        values = {name: matrix.rows(row0, row1) for name, matrix in self.components.items()}
        return self.columns.rows(row0, row1), values

    def value(self, component: str, row: int, column: int) -> float | None:
        """Return the distance of one edge; None where there is no such edge."""
        if component not in self.components:
            known = ", ".join(self.components)
            raise MlkitError(f"component {component!r}: these edges hold {known}")
        places = np.flatnonzero(self.columns[row] == column)
        return float(self.components[component][row][places[0]]) if len(places) else None
