"""The losses of one image's raw output against the targets of all images, exactly and at once.

`prepare_row` takes a raw output, `TargetTable` the targets, `pair_losses` both: box, cls, dfl and
seg as ultralytics' v8 criterion computes them at batch 1 with gains of 1, for every image.
"""

from mlkit_cluster.kernel.grid import Grid
from mlkit_cluster.kernel.masks import decode_mask, encode_mask
from mlkit_cluster.kernel.pairs import PairLosses, pair_losses
from mlkit_cluster.kernel.rows import Row, prepare_row
from mlkit_cluster.kernel.table import TargetTable
from mlkit_cluster.kernel.targets import Targets, to_canonical

__all__ = [
    "Grid",
    "PairLosses",
    "Row",
    "TargetTable",
    "Targets",
    "decode_mask",
    "encode_mask",
    "pair_losses",
    "prepare_row",
    "to_canonical",
]
