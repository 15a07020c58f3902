"""What a table of frames becomes, and how its problems are gathered."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """One labelled frame of a table.

    Args:
        where: The table's file and line, for errors: `index.csv:7`.
        key: Stable name of the frame.
        image: PNG, or NPY cine.
        frame: Index in the cine, from 0; None for a picture.
        mask: PNG or NPY of the frame's size; None where rows without a mask are read.
        mask_source: "manual" or "pseudo", or "" where the table does not say.
        valid: Mask of the pixels that count; None: all do.
        size: Height and width in pixels, from the file's header.
        angles: Primary and secondary in degrees, DICOM signs; None where they are unknown.
        split: "train", "val" or "test".
        cine: Frames of one cine look alike and must share a split.
        patient: Cines of one patient must share a split.
        collimator: As `CineHeader.collimator`, from the file or the column of that name.
    """

    where: str
    key: str
    image: Path
    frame: int | None
    mask: Path | None
    mask_source: str
    size: tuple[int, int]
    angles: tuple[float, float] | None
    split: str
    cine: str
    patient: str
    collimator: tuple[int, int, int, int] | None = None
    valid: Path | None = None


class Problems:
    """Gathers what is wrong in a table, so that one error can list it all."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def add(self, where: str, text: str, hint: str = "") -> None:
        """Note that `where` (file and line) is wrong as `text` says."""
        self.lines.append(f"{where}: {text}")
        if hint and hint not in self.hints:
            self.hints.append(hint)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Note a ValueError of the block as a problem of `where`, and go on after the block."""
        try:
            yield
        except ValueError as err:
            self.add(where, str(err))

    def raise_any(self) -> None:
        """Raise one DataError with a line for each problem, if there is any."""
        if not self.lines:
            return
        shown = self.lines[:_SHOWN]
        if len(self.lines) > _SHOWN:
            shown.append(f"and {len(self.lines) - _SHOWN} more problems")
        raise DataError("\n".join(shown), hint="; ".join(self.hints))
