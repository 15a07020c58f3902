"""`drift`: new images against a run's, by rows only: one forward pass for each new image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.findings import drift as compare
from mlkit_cluster.distances.rows import RowsTask
from mlkit_cluster.images.listing import list_images
from mlkit_cluster.steps.distances import recipe_of
from mlkit_cluster.steps.inputs import View, total_losses
from mlkit_cluster.steps.telling import Tell, silent
from mlkit_cluster.store import reading
from mlkit_cluster.store.database import open_run
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_cluster.engines.work import Engine
    from mlkit_cluster.steps.distances import DistanceWish

_ROWS = 64


@dataclass(frozen=True)
class DriftFound:
    """What a batch looks like beside the reference.

    Args:
        summary: Statistics; see `mlkit_cluster.analysis.findings.Drift`.
        rows: Each new image with its nearest reference image and its loss, farthest first.
    """

    summary: dict[str, object]
    rows: list[dict[str, object]]


def drift(
    path: Path,
    source: Path,
    wish: DistanceWish,
    *,
    engine: Engine,
    seed: int = 0,
    tell: Tell = silent,
) -> DriftFound:
    """Compare new images with a run that has all its distances.

    Args:
        path: Of the run.
        source: New images: a folder, a list, a data set.
        wish: Where the model lies, on which device, by which kernel.
        engine: Where the work is done.
        seed: Of the random splits.
        tell: Called with images done and wanted.

    Raises:
        InputError: The run has no whole matrix, or the source is wrong.
    """
    new = list_images(source).images
    with open_run(path, readonly=True) as run:
        known = run.metadata()
        if known.get("distance_mode") != "full":
            raise InputError(f"{run.path}: drift needs the whole matrix of a reference run")
        components = tuple(run_components(known["distance_components"]))
        recipe = recipe_of(run, replace(wish, components=components))
        recipe = replace(recipe, paths=tuple(entry.path for entry in new))
        gains, view = run.gains(), View(unknown="max")
        reference, _ = total_losses(run, view)
        names = [image.path for image in reading.images(run)]
    tasks = [RowsTask(a, min(a + _ROWS, len(new))) for a in range(0, len(new), _ROWS)]
    totals: list[np.ndarray] = []
    for task, rows in engine.map(recipe, tasks):
        for row in rows:
            totals.append(sum(np.float32(gains[n]) * values for n, values in row.items()))  # pyright: ignore[reportArgumentType]
        tell(task.row1 - task.row0, len(new))
    found = compare(np.stack(totals), reference, seed=seed)
    summary = {
        key: value
        for key, value in asdict(found).items()
        if key not in ("losses", "nearest", "reference")
    }
    order = np.argsort(-found.losses, kind="stable").tolist()
    rows = [
        {
            "path": new[place].key,
            "nearest": names[int(found.nearest[place])],
            "loss": float(found.losses[place]),
            "above": bool(found.losses[place] > found.threshold),
        }
        for place in order
    ]
    return DriftFound({"images": len(new), "reference": len(names), **summary}, rows)


def run_components(text: str) -> list[str]:
    """Return the components that a run's metadata names."""
    import json

    return list(json.loads(text))
