"""One HTML file that shows a run: data, pictures, styles and scripts are all inside."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mlkit_cluster.report.packing import json_text
from mlkit_cluster.report.payload import build_payload
from mlkit_cluster.report.pictures import CELL, SIDE, data_uri, make_pictures
from mlkit_cluster.report.tables import read_run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mlkit_cluster.report.pictures import Pictures
    from mlkit_cluster.report.source import RunData

# In the order in which they are joined.
SCRIPTS = (
    *("data", "picture", "state", "tip", "scatter", "filters", "selection"),
    *("detail", "pair", "matrix", "sections", "main"),
)
ALL_LARGE = 500  # images up to which each has a larger picture
MAX_EMBEDDED = 10_000
_SIDE_FILES = "'self' file: data:"  # "self" alone means nothing to a page that is a file


def write_report(
    run_folder: Path, out: Path, *, title: str | None = None, max_embedded: int = MAX_EMBEDDED
) -> Path:
    """Write the report of a run and return its path.

    Args:
        run_folder: The run's folder, or its `run.db`.
        out: The HTML file; its folder is made.
        title: Heading, else the name of the run's folder.
        max_embedded: Images up to which everything is in the one file; beyond it the thumbnails
            lie in a folder beside it, `<name>-pictures/`, to be moved along with it.

    Raises:
        InputError: There is no run.
    """
    run = read_run(run_folder)
    payload = build_payload(run)
    large = range(len(run)) if len(run) <= ALL_LARGE else payload.featured
    pictures = _pictures(run, large)
    out.parent.mkdir(parents=True, exist_ok=True)
    embedded = len(run) <= max_embedded
    sheets = [data_uri(s) for s in pictures.sheets] if embedded else _side_files(out, pictures)
    told = picture_table(sheets, {p: data_uri(big) for p, big in pictures.large.items()})
    heading = title or run.folder.resolve().name
    html = render(heading, payload.data, told, images="data:" if embedded else _SIDE_FILES)
    aside = out.with_name(f".{out.name}.part")
    aside.write_text(html, encoding="ascii")
    aside.replace(out)
    return out


def _pictures(run: RunData, large: Collection[int]) -> Pictures:
    sizes = [(int(w), int(h)) for w, h in run.sizes]
    return make_pictures([run.file(p) for p in range(len(run))], sizes, large)


def _side_files(out: Path, pictures: Pictures) -> list[str]:
    """Write the sheets beside the page; return their places as it names them."""
    folder = out.with_name(f"{out.stem}-pictures")
    folder.mkdir(exist_ok=True)
    names = [f"sheet-{number:05d}.webp" for number in range(len(pictures.sheets))]
    for name, sheet in zip(names, pictures.sheets, strict=True):
        (folder / name).write_bytes(sheet)
    return [f"{_quoted(folder.name)}/{name}" for name in names]


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name)


def picture_table(
    sheets: list[str], large: Mapping[int, str], *, cells_from: str = "", large_from: str = ""
) -> dict[str, Any]:
    """Return where the page finds pictures.

    Args:
        sheets: One URI for each 256 images.
        large: Position to a URI.
        cells_from: URI of one image's thumbnail, with `{id}`, instead of sheets.
        large_from: The same for larger pictures.
    """
    table: dict[str, Any] = {"cell": CELL, "side": SIDE, "sheets": sheets}
    table["large"] = {str(position): uri for position, uri in large.items()}
    return table | {"cellsFrom": cells_from, "largeFrom": large_from}


def render(heading: str, data: object, pictures: object, *, images: str) -> str:
    """Return the page, ASCII only.

    Args:
        heading: Of the page; any text.
        data: What `build_payload` gives.
        pictures: What `picture_table` gives.
        images: Sources that the content security policy allows for images.
    """
    parts = files("mlkit_cluster.report").joinpath("page")
    style = parts.joinpath("style.css").read_text(encoding="utf-8")
    sources = [parts.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    script = "(() => {\n'use strict';\n" + "\n".join(sources) + "})();\n"
    script = "".join(c if c.isascii() else _js_escape(c) for c in script)
    slots = {
        "policy": escape(_policy(script, style, images)),
        "title": escape(heading).encode("ascii", "xmlcharrefreplace").decode(),
        "style": style,
        "script": script,
        "data": json_text(data),
        "pictures": json_text(pictures),
    }
    template = parts.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], template)


def _js_escape(sign: str) -> str:
    """Return a character as JavaScript's strings and comments may hold it."""
    return "".join(f"\\u{int.from_bytes(u, 'little'):04x}" for u in _utf16_units(sign))


def _utf16_units(sign: str) -> list[bytes]:
    raw = sign.encode("utf-16-le")
    return [raw[k : k + 2] for k in range(0, len(raw), 2)]


def _policy(script: str, style: str, images: str) -> str:
    """Return the page's policy: this script, this style, these images, and nothing else."""
    own = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{own[0]}'; style-src 'sha256-{own[1]}'; "
        f"img-src {images}; base-uri 'none'; form-action 'none'"
    )
