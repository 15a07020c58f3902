"""Losses of pairs of images, from a run's full matrix or from its table of edges."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.report.tables import positions_of
from mlkit_cluster.store.database import open_run
from mlkit_cluster.store.distance_spec import layout
from mlkit_cluster.store.schema import COMPONENTS
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from mlkit_cluster.report.source import RunData
    from mlkit_cluster.store.edges import Edges
    from mlkit_cluster.store.matrix import Matrix

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

_log = logging.getLogger("mlkit.cluster")
_BLOCK_NUMBERS = 4_000_000  # 16 MB of each component at a time


@dataclass(frozen=True)
class Pairs:
    """What is known of the ordered pairs (i, j): the loss of image i's raw output against j.

    Args:
        count: N, the side of the matrix.
        components: In the order of the last dimension of what `at` gives.
        matrices: Component to its full matrix, on the disk; empty where there is none.
        keys: `[E]` int64, sorted `i * N + j` of the known edges, where there is no full matrix.
        edges: `[E, C]` float32.
        note: Why there is nothing, if distances were begun.
    """

    count: int
    components: tuple[str, ...] = ()
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    keys: Ints | None = None
    edges: Floats | None = None
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.components)

    @property
    def is_full(self) -> bool:
        """Whether every pair is known."""
        return bool(self.matrices)

    def at(self, i: Ints, j: Ints) -> Floats:
        """Return `[K, C]` losses of K pairs of positions, NaN where unknown or undefined."""
        made = np.full((len(i), len(self.components)), np.nan, np.float32)
        if self.keys is not None and self.edges is not None:
            found = positions_of(self.keys, np.asarray(i) * self.count + j)
            made[found >= 0] = self.edges[found[found >= 0]]
            return made
        order = np.argsort(i, kind="stable")
        for number, name in enumerate(self.components):
            for block in self.matrices[name].blocks:
                first, last = np.searchsorted(i[order], [block.row0, block.row1])
                ours = order[first:last]
                if len(ours):
                    made[ours, number] = block.load()[i[ours] - block.row0, j[ours]]
        return made

    def submatrix(self, positions: Ints) -> Floats:
        """Return `[M, M, C]` over some images, in their order."""
        side = len(positions)
        values = self.at(np.repeat(positions, side), np.tile(positions, side))
        return values.reshape(side, side, len(self.components))

    def total(self, values: Floats, gains: Mapping[str, float]) -> Floats:
        """Return the weighted sum over the last dimension, NaN where any component is."""
        weights = np.array([gains.get(name, 1.0) for name in self.components], np.float32)
        return (values * weights).sum(-1, dtype=np.float32)

    def row_blocks(self) -> Iterator[tuple[int, Floats]]:
        """Yield the first row and `[rows, N, C]` of each part of a full matrix."""
        step = max(1, _BLOCK_NUMBERS // max(self.count, 1))
        for row0 in range(0, self.count if self.is_full else 0, step):
            row1 = min(row0 + step, self.count)
            yield row0, np.stack([m.rows(row0, row1) for m in self.matrices.values()], -1)


def read_pairs(run: RunData) -> Pairs:
    """Return the pairs of a run: its full matrix, else its edges, else none and why."""
    with open_run(run.folder, readonly=True) as store:
        if "distance_fingerprint" not in store.metadata():
            return Pairs(len(run))
        try:
            expected = layout(store)
            if expected.n != len(run):
                note = f"they are of {expected.n} images, and the run has {len(run)}"
                return Pairs(len(run), note=note)
            if expected.kind == "edges":
                return _edges(store.open_edges())
            matrices = {
                name: store.open_matrix(name) for name in COMPONENTS if name in expected.names
            }
            for matrix in matrices.values():
                for block in matrix.blocks:
                    block.load()  # a file that is gone shows here, before any number is told
            return Pairs(len(run), tuple(matrices), matrices)
        except MlkitError as err:
            _log.warning("the report goes without distances: %s", err)
            return Pairs(len(run), note=str(err))


def _edges(edges: Edges) -> Pairs:
    count, width = edges.columns.shape
    columns = edges.columns.array().astype(np.int64).ravel()
    rows = np.repeat(np.arange(count), width)
    keys, first = np.unique((rows * count + columns)[columns >= 0], return_index=True)
    components = tuple(name for name in COMPONENTS if name in edges.components)
    values = [edges.components[name].array().ravel()[columns >= 0][first] for name in components]
    return Pairs(count, components, {}, keys, np.stack(values, 1).astype(np.float32))


def nearest(run: RunData, pairs: Pairs, k: int = 10) -> Ints:
    """Return `[N, k]` positions of the images j of least total loss D_ij, -1 where fewer are known.

    Images without targets are nobody's neighbour: against them only the background is scored.
    """
    made = np.full((len(run), k), -1, np.int64)
    if pairs.is_full:
        for row0, block in pairs.row_blocks():
            total = pairs.total(block, run.gains)
            rows = np.arange(len(total))
            total[rows, row0 + rows] = np.nan
            _fill(made[row0 : row0 + len(total)], np.where(np.isnan(total), np.inf, total))
    elif pairs.keys is not None and pairs.edges is not None:
        total = pairs.total(pairs.edges, run.gains)
        order = np.lexsort([total, pairs.keys // pairs.count])
        order = order[~np.isnan(total[order])]
        i, j = np.divmod(pairs.keys[order], pairs.count)
        order, i, j = order[i != j], i[i != j], j[i != j]
        rank = np.arange(len(i)) - np.searchsorted(i, i)
        made[i[rank < k], rank[rank < k]] = j[rank < k]
    return made


def _fill(made: Ints, total: Floats) -> None:
    """Write the columns of the least finite values of each row, in their order."""
    k = min(made.shape[1], total.shape[1])
    least = np.argpartition(total, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(total, least, 1)
    order = np.lexsort([least, values], axis=1)
    least, values = np.take_along_axis(least, order, 1), np.take_along_axis(values, order, 1)
    made[:, :k] = np.where(np.isfinite(values), least, -1)
