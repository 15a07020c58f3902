"""Which of a row's masks is read, and whether a person or a program made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_angioseg.frames.csvfile import cell

if TYPE_CHECKING:
    from mlkit_angioseg.frames.csvfile import Cells

MASKS = {
    "manual": ("vessel_mask_actual_path", "mask_path"),
    "pseudo": ("deepsa_pseudo_label_path",),
}
SOURCES = {"manual": ("manual",), "pseudo": ("pseudo",), "prefer_manual": ("manual", "pseudo")}
STATED = "mask_source"


def stated_source(cells: Cells) -> str:
    """Return what the column `mask_source` says of the row's own mask, "" where it says nothing.

    Raises:
        ValueError: It says neither manual nor pseudo.
    """
    stated = cell(cells, (STATED,)).lower()
    if stated not in ("", *MASKS):
        raise ValueError(f"{STATED}: expected manual or pseudo, got {stated!r}")
    return stated


def choose_mask(
    cells: Cells, wanted: str, own: str | None = None, unstated: str = "manual"
) -> tuple[str, str]:
    """Return the source and the path of the mask to read; two empty strings where there is none.

    Args:
        cells: Of the row.
        wanted: The option `mask_source`.
        own: Path of the row's own mask; None: the one in the columns for manual masks.
        unstated: What the own mask is where no column `mask_source` says it; "" fits every wish.

    Raises:
        ValueError: As `stated_source`.
    """
    own = cell(cells, MASKS["manual"]) if own is None else own
    given = ((stated_source(cells) or unstated, own), ("pseudo", cell(cells, MASKS["pseudo"])))
    for source in (*SOURCES[wanted], ""):
        for kind, path in given:
            if path and kind == source:
                return kind, path
    return "", ""
