"""The sections of `eval-<split>.json`: metrics, shares and groups, samples with the worst first."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlkit_core.report.markup import section, table, tag, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.report.folder import Record, RunRecord

_SHOWN = 2000  # samples; beyond it the page grows slow
_GROUPS = range(2, 13)  # distinct values of a column by which samples are grouped


def evaluation_section(split: str, record: Record, run: RunRecord, links: Mapping[str, str]) -> str:
    """Return the section of one split.

    Args:
        split: "val", "test".
        record: What the file holds.
        run: For the monitored metric.
        links: Sample's key to the anchor of its picture.
    """
    rows: list[Record] = record.get("rows") or []
    where = f"checkpoint {record.get('checkpoint', '?')}, stage {record.get('stage', '?')}"
    score, ascending = _score(record, run, rows)
    return section(
        f"eval-{split}",
        f"Evaluation on {split}",
        text("p", where, class_="muted"),
        _metrics(record.get("metrics") or {}),
        _groups(rows, score),
        _samples(split, rows, score, links, ascending=ascending),
    )


def _metrics(metrics: Mapping[str, Any]) -> str:
    """Return the metrics, with the interval beside where `<name>_low` and `_high` are given."""
    rows: list[list[object]] = []
    for name, value in metrics.items():
        base = name.removesuffix("_low").removesuffix("_high")
        if base != name and base in metrics:
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        rows.append([name, value, low, high])
    if all(row[2] is None and row[3] is None for row in rows):
        return table(["metric", "value"], [row[:2] for row in rows]) if rows else ""
    return table(["metric", "value", "interval from", "to"], rows)


def _score(record: Record, run: RunRecord, rows: Sequence[Record]) -> tuple[str, bool]:
    """Return the column that says how good a sample is ("" if unknown); small is bad."""
    columns = rows[0].keys() if rows else ()
    name, more_is_better = run.monitored(str(record.get("stage", "")))
    monitored = name.rpartition(".")[2]
    if monitored in columns:
        return monitored, more_is_better
    for metric in record.get("metrics") or {}:
        column = metric.rpartition(".")[2]
        if column in columns and all(0 <= v <= 1 for v in _numbers(rows, column)):
            return column, True
    return "", True


def _numbers(rows: Sequence[Record], column: str) -> list[float]:
    given = [row.get(column) for row in rows]
    return [v for v in given if isinstance(v, int | float) and v == v]


def _groups(rows: Sequence[Record], score: str) -> str:
    """Return counts, shares and mean scores by each column of words: patient, mask source, view."""
    blocks: list[str] = []
    for column in list(rows[0]) if rows else []:
        values = [row.get(column) for row in rows]
        counts = Counter(str(value) for value in values)
        words = all(isinstance(value, str | bool) for value in values)
        source = column.endswith("source")  # said even where all samples share it
        if not words or not (len(counts) in _GROUPS or source) or len(counts) == len(rows) > 1:
            continue
        lines: list[list[object]] = []
        for value, count in sorted(counts.items()):
            own = [row for row in rows if str(row.get(column)) == value]
            scores = _numbers(own, score)
            mean = [sum(scores) / len(scores) if scores else math.nan] if score else []
            lines.append([value, count, f"{100 * count / len(rows):.0f} %", *mean])
        heads = [column, "samples", "share", *([f"mean {score}"] if score else [])]
        blocks.append(table(heads, lines))
    return tag("div", "".join(blocks), class_="columns") if blocks else ""


def _samples(
    split: str, rows: Sequence[Record], score: str, links: Mapping[str, str], *, ascending: bool
) -> str:
    if not rows:
        return ""
    order = "worst first, by " + score if score else "in the order of the evaluation"

    def rank(row: Record) -> float:
        value = row.get(score)
        if not isinstance(value, int | float) or value != value:
            return -math.inf  # no score is the worst
        return value if ascending else -value

    ordered = sorted(rows, key=rank) if score else list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns.sort(key=lambda name: (name != "key", name != score))
    shown = [[row.get(column) for column in columns] for row in ordered[:_SHOWN]]
    said = f"{len(rows)} samples, {order}. A click on a head sorts."
    if len(rows) > _SHOWN:
        said += f" The first {_SHOWN} are shown; all are in eval-{split}.csv."
    find = '<input type="search" class="filter" placeholder="filter samples" aria-label="filter">'
    title = text("h3", "Samples") + text("p", said, class_="muted") + find
    return tag("div", title + table(columns, shown, links=links), class_="samples")
