"""Which split a frame belongs to, and that no patient or cine is in two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_angioseg.frames.csvfile import Cells, cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.frames.rows import FrameRow, Problems

SPLITS = ("train", "val", "test")
_SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


def choose_split(cells: Cells, patient: str, options: AngioFramesConfig) -> str:
    """Return the split of a row: by patient where the options say so, else the table's.

    A table without a split column trains with all its rows.

    Raises:
        ValueError: The table names another split than train, val and test.
    """
    if patient in options.val_patients:
        return "val"
    if patient in options.test_patients:
        return "test"
    if "split" not in cells:
        return "train"
    name = cell(cells, ("split",)).lower()
    name = _SPELLINGS.get(name, name)
    if name not in SPLITS:
        raise ValueError(f"split: expected train, val or test, got {name!r}")
    return "train" if name == "val" and options.val_patients else name


def check_splits(rows: Sequence[FrameRow], options: AngioFramesConfig, problems: Problems) -> None:
    """Note every patient and every cine that is in two splits, and unknown patients."""
    _check_groups("patient", [(row.patient, row) for row in rows], problems)
    _check_groups("cine", [(row.cine, row) for row in rows], problems)
    known = {row.patient for row in rows}
    for field in ("val_patients", "test_patients"):
        for patient in getattr(options, field):
            if rows and patient not in known:
                have = ", ".join(sorted(known))
                problems.add(f"data.{field}", f"no patient {patient!r}; there are {have}")


def _check_groups(kind: str, rows: Sequence[tuple[str, FrameRow]], problems: Problems) -> None:
    first: dict[str, FrameRow] = {}
    told = set[str]()
    for name, row in rows:
        other = first.setdefault(name, row)
        if other.split != row.split and name not in told:
            told.add(name)
            problems.add(
                row.where,
                f"{kind} {name!r} is in split {row.split!r} here and in {other.split!r} at "
                f"{other.where}",
                "frames of one patient are alike and must share a split; "
                "val_patients chooses the split by patient",
            )
