"""One row for each image: paths, losses, metrics, clusters, coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mlkit_cluster.exports.chosen import chosen, rows_of
from mlkit_cluster.report.tables import read_run
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_cluster.exports.chosen import Value

Kind = Literal["csv", "parquet"]


def export_table(
    run_folder: Path, out: Path, kind: Kind | str, *, img_ids: Sequence[int] | None = None
) -> Path:
    """Write one row for each image and return the file.

    What is unknown is empty (CSV) or null (Parquet), never 0. CSV quotes all text and changes none:
    a spreadsheet may read a file name that begins with `=` as a formula.

    Args:
        run_folder: The run's folder, or its `run.db`.
        out: The file; its folder is made.
        kind: "csv" or "parquet".
        img_ids: Only these, in their order.

    Raises:
        InputError: There is no run or no such image, or `kind` is unknown or not installed.
    """
    if kind not in ("csv", "parquet"):
        raise InputError(f"export: expected csv or parquet, got {kind!r}")
    run = read_run(run_folder)
    rows = rows_of(run, chosen(run, img_ids))
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    if kind == "csv":
        text = "".join(_line(line) for line in (*rows[:1], *(entry.values() for entry in rows)))
        aside.write_bytes(text.encode("utf-8", "surrogateescape"))
    else:
        _write_parquet(rows, aside)
    aside.replace(out)
    return out


def _line(values: object) -> str:
    return ",".join(map(_cell, values)) + "\r\n"  # pyright: ignore[reportArgumentType]  # values


def _cell(value: Value) -> str:
    """Return a field as RFC 4180 has it: text in quotes, numbers bare, None empty."""
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else repr(value)


def _write_parquet(rows: list[dict[str, Value]], out: Path) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-cluster[parquet]', or export csv"
        raise InputError("export: parquet needs pyarrow, which is missing", hint=hint) from err
    names = list(rows[0]) if rows else []
    columns = {name: [_valid(entry[name]) for entry in rows] for name in names}
    types = {name: _type(pa, values) for name, values in columns.items()}
    arrays = [pa.array(columns[name], types[name]) for name in names]
    parquet.write_table(pa.Table.from_arrays(arrays, names=names), out)


def _valid(value: Value) -> Value:
    """Return text that UTF-8 can hold: other bytes of a file name become escapes."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _type(pa: object, values: list[Value]) -> object:
    """Return Arrow's type of a column; one that is unknown throughout is one of floats."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return pa.string()  # pyright: ignore[reportAttributeAccessIssue]  # a module
    if known and all(isinstance(value, int) for value in known):
        return pa.int64()  # pyright: ignore[reportAttributeAccessIssue]
    return pa.float64()  # pyright: ignore[reportAttributeAccessIssue]
