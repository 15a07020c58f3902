"""`losses`: a run's own losses and metrics as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.exports.table import export_table
from mlkit_cluster.store import reading
from mlkit_cluster.store.database import open_run

if TYPE_CHECKING:
    from pathlib import Path

_LOSSES = ("box_loss", "cls_loss", "dfl_loss", "seg_loss")


def write_losses(folder: Path, out: Path) -> dict[str, float | int | None]:
    """Write the table, and return the mean of each loss over the images that have it."""
    export_table(folder, out, out.suffix.removeprefix("."))
    with open_run(folder, readonly=True) as run:
        scores = reading.scores(run)
    found: dict[str, float | int | None] = {"images": len(scores["img_id"])}
    for name in _LOSSES:
        known = scores[name][~np.isnan(scores[name])]
        found[f"mean {name}"] = float(known.mean()) if len(known) else None
    return found
