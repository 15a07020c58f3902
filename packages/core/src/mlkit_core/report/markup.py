"""HTML from values: whatever comes from data is escaped here."""

from __future__ import annotations

import json
import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def as_text(value: object) -> str:
    """Return a value for people: four digits for fractions, a dash for nothing and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"  # noqa: RUF001  # an en dash, for people
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def tag(name: str, content: str, /, **attributes: str) -> str:
    """Return an element around finished HTML; attributes are escaped, `class_` means `class`."""
    said = "".join(
        f' {key.strip("_").replace("_", "-")}="{escape(v)}"' for key, v in attributes.items() if v
    )
    return f"<{name}{said}>{content}</{name}>"


def text(name: str, value: object, /, **attributes: str) -> str:
    """Return an element around a value, escaped."""
    return tag(name, escape(as_text(value)), **attributes)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    links: Mapping[str, str] | None = None,
) -> str:
    """Return a table that a click on its head sorts; numbers stand to the right.

    Args:
        columns: Heads.
        rows: Values, not escaped yet.
        links: Value of the first column to the anchor that it leads to.
    """
    upright = [
        "number" if any(map(_is_number, column)) else "" for column in zip(*rows, strict=True)
    ] or [""] * len(columns)
    head = "".join(
        tag("th", text("button", column, type="button"), class_=kind)
        for column, kind in zip(columns, upright, strict=True)
    )
    body = "".join(tag("tr", "".join(_cells(row, upright, links or {}))) for row in rows)
    inside = tag("thead", tag("tr", head)) + tag("tbody", body)
    return tag("div", tag("table", inside, class_="sortable"), class_="scroll")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells(row: Sequence[object], kinds: Sequence[str], links: Mapping[str, str]) -> list[str]:
    cells: list[str] = []
    for index, (value, kind) in enumerate(zip(row, kinds, strict=True)):
        if index == 0 and str(value) in links:
            cells.append(tag("td", text("a", value, href=f"#{links[str(value)]}")))
            continue
        finite = isinstance(value, int | float) and _is_number(value) and math.isfinite(value)
        cells.append(text("td", value, class_=kind, data_value=repr(value) if finite else ""))
    return cells


def json_block(value: object, identity: str) -> str:
    """Return JSON in a `<script>` that no value can end: `<`, `>` and `&` become escapes."""
    content = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(identity)}">{content}</script>'


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def section(identity: str, title: str, *content: str) -> str:
    """Return a section with its heading; empty where it has no content."""
    inside = "".join(content)
    return tag("section", text("h2", title) + inside, id=identity) if inside else ""
