"""The losses of one raw output against all images' targets, by whichever backend there is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from mlkit_cluster.kernel.rows import Row
    from mlkit_cluster.kernel.table import TargetTable

Backend = Literal["auto", "numba", "torch"]


@dataclass(frozen=True)
class PairLosses:
    """Losses of one raw output with the targets of K images, gains 1.

    Args:
        box: `[K]` float32; NaN where an image has no targets.
        cls: `[K]` float32; without targets, the loss of the background.
        dfl: `[K]` float32, NaN likewise.
        seg: `[K]` float32, NaN likewise; None where raw output or targets have no masks.
        n_pos: `[K]` int32, positive anchors.
        score_sum: `[K]` float32, sum of their soft scores: the losses' divisor where above 1.
        n_targets: `[K]` int32.
    """

    box: np.ndarray
    cls: np.ndarray
    dfl: np.ndarray
    seg: np.ndarray | None
    n_pos: np.ndarray
    score_sum: np.ndarray
    n_targets: np.ndarray


def pair_losses(
    row: Row, table: TargetTable, columns: np.ndarray | None = None, backend: Backend = "auto"
) -> PairLosses:
    """Return the losses of one raw output with the targets of images.

    Both backends give what ultralytics' criterion gives at batch 1, but for the rounding of sums.
    numba releases the GIL.

    Args:
        row: The raw output.
        table: The targets, on the same grid.
        columns: `[K]` int64, which images; None: all.
        backend: "numba" needs a row on the CPU; "torch" works on any device; "auto" prefers numba.

    Raises:
        InputError: Row and table have different grids, a column is no image, or numba was asked
            for and is missing or cannot read the row.
    """
    chosen = _checked(row, table, columns)
    with_masks = row.coefs is not None and row.protos is not None and table.crops is not None
    losses = _computed(row, table, chosen, backend, with_masks=with_masks)
    counts = table.starts[chosen + 1] - table.starts[chosen]
    return _named(losses, counts, with_masks=with_masks)


def _named(losses: np.ndarray, counts: np.ndarray, *, with_masks: bool) -> PairLosses:
    losses[np.ix_(counts == 0, [0, 2, 3])] = np.nan
    box, cls, dfl, seg = (np.ascontiguousarray(part, np.float32) for part in losses.T[:4])
    return PairLosses(
        box=box,
        cls=cls,
        dfl=dfl,
        seg=seg if with_masks else None,
        n_pos=losses[:, 4].astype(np.int32),
        score_sum=losses[:, 5].astype(np.float32),
        n_targets=counts.astype(np.int32),
    )


def _checked(row: Row, table: TargetTable, columns: np.ndarray | None) -> np.ndarray:
    if row.grid != table.grid:
        raise InputError(f"pair losses: row on {row.grid}, targets on {table.grid}")
    chosen = np.arange(len(table)) if columns is None else np.asarray(columns)
    chosen = chosen.astype(np.int64, casting="same_kind") if len(chosen) else np.zeros(0, np.int64)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(table):
        raise InputError(
            f"pair losses: columns {chosen.min()} to {chosen.max()} of {len(table)} images"
        )
    return np.ascontiguousarray(chosen)


def _computed(
    row: Row, table: TargetTable, columns: np.ndarray, backend: Backend, *, with_masks: bool
) -> np.ndarray:
    """Return losses `[K, 6]` float64."""
    from mlkit_cluster.kernel.sparse import sparse_losses

    if not _takes_numba(row, backend):
        return sparse_losses(row, table, columns, with_masks=with_masks)
    from mlkit_cluster.kernel.numba_backend import compiled_losses

    losses, doubts = compiled_losses(row, table, columns, with_masks=with_masks)
    if doubts.any():
        losses[doubts] = sparse_losses(row, table, columns[doubts], with_masks=with_masks)
    return losses


def _takes_numba(row: Row, backend: Backend) -> bool:
    if backend not in ("auto", "numba", "torch"):
        raise InputError(f"kernel: expected auto, numba or torch, got {backend!r}")
    on_cpu = row.planes.device.type == "cpu"
    possible = on_cpu and backend != "torch" and find_spec("numba") is not None
    if backend == "numba" and not possible:
        why = "is not installed" if on_cpu else f"cannot read a row on {row.planes.device}"
        raise InputError(f"kernel: numba {why}", hint="`torch` works everywhere, more slowly")
    return possible
