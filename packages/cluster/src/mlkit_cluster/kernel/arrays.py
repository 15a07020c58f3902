"""What the compiled box kernel reads, works in and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Index: TypeAlias = Any  # int64 or uint64, as numba infers; unsigned ones need no look for signs


class RowArrays(NamedTuple):
    """A row's arrays, flat, and its grid's; see `Row`."""

    planes: np.ndarray  # [6 * (A + LANES)]
    roots: np.ndarray  # [nc * A + LANES]
    logits: np.ndarray  # [nc * A]
    log_probs: np.ndarray  # [A * 4 * reg_max]
    records: np.ndarray  # [A * 8]
    offsets: np.ndarray  # [L] int64, first anchor of each level
    sides: np.ndarray  # [L] int64
    num_anchors: int
    reg_max: int
    background: float


class TargetArrays(NamedTuple):
    """A table's arrays; see `TargetTable`."""

    boxes: np.ndarray
    scaled: np.ndarray
    cells: np.ndarray
    labels: np.ndarray
    starts: np.ndarray


class Scratch(NamedTuple):
    """The candidates of one target, sixteen by sixteen."""

    metric: np.ndarray  # [n] float32
    overlap: np.ndarray  # [n] float32
    first: np.ndarray  # [n / LANES] int64, the first anchor of each sixteen
    peaks: np.ndarray  # [LANES] float32, a tenth of which is no larger than the tenth best metric
    places: np.ndarray  # [n] uint64, where the best candidates are
    values: np.ndarray  # [n] float32, their metrics
    holder: np.ndarray  # [A] int32, the pick that holds an anchor, -1: none


class Picks(NamedTuple):
    """The anchors that the targets of one image picked."""

    anchor: np.ndarray  # [n] uint64
    target: np.ndarray  # [n] int64, place in the table
    metric: np.ndarray  # [n] float32, in the end the soft score
    overlap: np.ndarray  # [n] float32
    claims: np.ndarray  # [n] int32, how many targets picked the anchor
    top: np.ndarray  # [2 * g] float32, each target's largest metric and overlap
    theirs: np.ndarray  # [6 * n] float32, planes of the targets' boxes in strides
    ours: np.ndarray  # [6 * n] float32, the anchors'
    exact: np.ndarray  # [n] float32, the overlaps of these


class Results(NamedTuple):
    """What the kernel writes."""

    losses: np.ndarray  # [K, 6] float64: box, cls, dfl, a gap, positives, sum of soft scores
    doubts: np.ndarray  # [K] bool, see `_may_fill`
    ends: np.ndarray  # [K] int64, one past each image's last positive
    positives: np.ndarray  # [P, 2] int64, anchor and target; length 0: they are not wanted
