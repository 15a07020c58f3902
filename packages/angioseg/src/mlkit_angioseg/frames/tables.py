"""Both layouts of a data set: a table of cines, or folders of pictures with an angle table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_angioseg.frames.csvfile import Cells, read_table, require_columns
from mlkit_angioseg.frames.reader import CINE, IMAGE, RowReader
from mlkit_angioseg.frames.sources import MASKS, SOURCES, STATED
from mlkit_angioseg.frames.splits import check_splits
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.frames.rows import FrameRow

log = logging.getLogger(__name__)

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


def read_rows(
    options: AngioFramesConfig, *, needs_angles: bool = True, needs_masks: bool = True
) -> list[FrameRow]:
    """Return the rows of a data set, after checking all that headers can tell.

    Args:
        options: Where the data is, and how it is read.
        needs_angles: Whether the model reads the view; if not, missing angles do no harm.
        needs_masks: Whether rows without a mask are wrong.

    Raises:
        DataError: Every problem of every row, one line each.
    """
    table, is_cines = find_table(options)
    if is_cines and options.valid_masks is not None:
        raise DataError(f"{table}: data.valid_masks is for layout folder, this one lists cines")
    base = Path(options.data_root) if options.data_root else table.parent
    reader = RowReader(options, base, needs_angles=needs_angles, needs_masks=needs_masks)
    cells = _read_cells(table, reader)
    if cells:
        _check_columns(table, cells[0][1], reader, is_cines=is_cines)
    rows = _build(reader, cells, is_cines=is_cines)
    check_splits(rows, options, reader.problems)
    reader.problems.raise_any()
    if reader.dropped:
        log.warning("%s: %d rows left out: they have no angles", table, reader.dropped)
    if not rows:
        raise DataError(f"{table}: no row is left")
    if len(rows) > 1 and rows[0].angles and len({row.angles for row in rows}) == 1:
        log.warning("%s: all %d rows have the same angles %s", table, len(rows), rows[0].angles)
    return rows


def find_table(options: AngioFramesConfig) -> tuple[Path, bool]:
    """Return the table (the image folder where there is none), and whether it lists cines.

    Raises:
        DataError: There is nothing to read, or several tables to choose from.
    """
    root = Path(options.root)
    if root.is_file():
        folder = options.layout == "folder" or (
            options.layout == "auto" and (root.parent / options.images).is_dir()
        )
        return root, not folder
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder", hint="set data.root")
    images = root / options.images
    is_cines = options.layout == "csv" or (options.layout == "auto" and not images.is_dir())
    if options.table is not None:
        return root / options.table, is_cines
    tables = sorted(root.glob("*.csv"))
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{root}: several tables: {names}", hint="name one by data.table")
    if not tables and (is_cines or not images.is_dir()):
        raise DataError(f"{root}: holds neither a CSV table nor a folder {options.images!r}")
    return (tables[0] if tables else images), is_cines


def _read_cells(table: Path, reader: RowReader) -> list[tuple[str, Cells]]:
    if not table.is_dir():
        return read_table(table, reader.problems)
    pictures = sorted(path.name for path in table.iterdir() if path.suffix.lower() in PICTURES)
    if not pictures:
        raise DataError(f"{table}: holds no pictures")
    return [(f"{table.name}/{name}", {"image": name}) for name in pictures]


def _check_columns(table: Path, cells: Cells, reader: RowReader, *, is_cines: bool) -> None:
    kinds = tuple(MASKS) if STATED in cells else SOURCES[reader.options.mask_source]
    masks = [tuple(name for kind in kinds for name in MASKS[kind])] if reader.needs_masks else []
    require_columns(table, cells, [CINE, *masks, ("frame_index",)] if is_cines else [IMAGE])


def _build(reader: RowReader, cells: list[tuple[str, Cells]], *, is_cines: bool) -> list[FrameRow]:
    build = reader.cine_row if is_cines else reader.picture_row
    rows: list[FrameRow] = []
    seen: dict[str, str] = {}
    for where, row_cells in cells:
        row = None
        with reader.problems.at(where):
            row = build(where, row_cells)
        if row is None:
            continue
        if row.key in seen:
            reader.problems.add(where, f"frame {row.key!r} is already listed at {seen[row.key]}")
        seen.setdefault(row.key, where)
        rows.append(row)
    return rows
