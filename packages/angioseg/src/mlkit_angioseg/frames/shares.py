"""How many frames of each split a person or a program labelled, as a table of the run's report."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.config import AngioFramesConfig
from mlkit_angioseg.frames.csvfile import cell, read_table
from mlkit_angioseg.frames.reader import CINE, IMAGE, PATIENT
from mlkit_angioseg.frames.rows import Problems
from mlkit_angioseg.frames.sources import choose_mask
from mlkit_angioseg.frames.splits import SPLITS, choose_split
from mlkit_angioseg.frames.tables import find_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_angioseg.frames.csvfile import Cells

UNSAID = "not said"
_KINDS = ("manual", "pseudo", UNSAID)


def write_shares(folder: Path, data: Mapping[str, object]) -> None:
    """Write `tables/mask-source.json` of a run folder; folders without a table have none.

    Args:
        folder: Of the run.
        data: The run file's `data`, with its name.

    Raises:
        DataError: There is no table where the options say so.
    """
    options = AngioFramesConfig.model_validate({k: v for k, v in data.items() if k != "name"})
    counts = count_sources(options)
    if not counts:
        return
    rows = []
    for split in SPLITS:
        total = sum(counts.get((split, kind), 0) for kind in _KINDS)
        for kind in _KINDS:
            if number := counts.get((split, kind), 0):
                worth = options.pseudo_weight if kind == "pseudo" else 1.0
                rows.append([split, kind, number, round(number / total, 4), worth])
    table = {
        "title": "Who made the masks",
        "text": f"By the table, with mask_source: {options.mask_source}. A score on masks of a "
        "program says how well that program is imitated.",
        "columns": ["split", "masks", "frames", "share", "weight in the loss"],
        "rows": rows,
    }
    (folder / "tables").mkdir(exist_ok=True)
    aside = folder / "tables" / ".mask-source.part"
    aside.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / "tables" / "mask-source.json")


def count_sources(options: AngioFramesConfig) -> dict[tuple[str, str], int]:
    """Return (split, source) to the number of rows, by the table alone: no file is opened.

    Rows that are wrong are not counted here; reading the data tells of them.

    Raises:
        DataError: There is no table where the options say so.
    """
    table, is_cines = find_table(options)
    if table.is_dir():
        return {}
    counts: Counter[tuple[str, str]] = Counter()
    for _, cells in read_table(table, Problems()):
        with suppress(ValueError):
            counts[_split_and_source(cells, options, is_cines=is_cines)] += 1
    return dict(counts)


def _split_and_source(
    cells: Cells, options: AngioFramesConfig, *, is_cines: bool
) -> tuple[str, str]:
    if is_cines:
        patient = cell(cells, (*PATIENT, "case_id", *CINE))
        source, path = choose_mask(cells, options.mask_source)
    else:
        patient = cell(cells, (*PATIENT, "cine")) or Path(cell(cells, IMAGE)).stem
        own = cell(cells, ("mask",)) or ("" if "mask" in cells else cell(cells, IMAGE))
        source, path = choose_mask(cells, options.mask_source, own, "")
    if not path:
        raise ValueError("no mask")
    return choose_split(cells, patient, options), source or UNSAID
