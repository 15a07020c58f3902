"""Which images an export holds, and their measures as columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.report.source import COUNTS, UNASSIGNED, RunData
from mlkit_cluster.report.tables import positions_of
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

Value = str | int | float | None


def chosen(run: RunData, img_ids: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """Return positions of the images with these ids, in their order; of all without ids.

    Raises:
        InputError: There is no such image, or it could not be read.
    """
    if img_ids is None:
        return np.arange(len(run))
    wanted = np.asarray(img_ids, np.int64).reshape(-1)
    found = positions_of(run.img_ids, wanted)
    if (found < 0).any():
        raise InputError(
            f"{run.folder}: no image with img_id {int(wanted[found < 0][0])}",
            hint="images that could not be read have no row",
        )
    return found


def measures(run: RunData) -> dict[str, npt.NDArray[np.float32]]:
    """Return name to `[N]`: total loss, losses, metrics, counts; NaN where unknown."""
    return {"total_loss": run.total_loss, **run.columns}


def measured(values: npt.NDArray[np.float32], name: str, position: int) -> int | float | None:
    """Return one measure as Python has it: None where unknown, counts whole.

    Other numbers are the shortest ones that read back as the same float32.
    """
    value = values[position]
    if np.isnan(value):
        return None
    return int(value) if name in COUNTS else float(str(value))


def field_name(words: str) -> str:
    """Return words as a name of a field: letters, digits and `_`, not beginning with a digit."""
    name = re.sub(r"\W", "_", words, flags=re.ASCII)
    return f"n{name}" if not name or name[0].isdigit() or name[0] == "_" else name


def rows_of(run: RunData, positions: Iterable[int]) -> list[dict[str, Value]]:
    """Return everything that is known of images, by name; all have the same names in order."""
    columns = measures(run)
    return [_row(run, int(position), columns) for position in positions]


def _row(
    run: RunData, position: int, columns: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, Value]:
    width, height = run.sizes[position]
    made: dict[str, Value] = {
        "img_id": int(run.img_ids[position]),
        "path": run.paths[position],
        "file": str(run.file(position)),
        "w": int(width) or None,
        "h": int(height) or None,
        "split": run.splits[position] or None,
    }
    made |= {name: measured(values, name, position) for name, values in columns.items()}
    for name, labels in run.flags.items():
        label = int(labels[position])
        known = (run.names if name == "cat" else run.supercategories)[max(label, 0) :]
        made[f"flag_{name}"] = label if label >= 0 else None
        made[f"flag_{name}_name"] = known[0] if label >= 0 and known else None
    for clustering in run.clusterings:
        label = int(clustering.labels[position])
        made[f"cluster_{field_name(clustering.name)}"] = label if label != UNASSIGNED else None
    for projection in run.projections:
        for axis, value in zip("xy", projection.xy[position], strict=True):
            name = f"{field_name(projection.name)}_{axis}"
            made[name] = None if np.isnan(value) else float(str(value))
    return made
