"""The page: sections in order, scripts inlined, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from mlkit_core.errors import PluginError
from mlkit_core.report.curves import figures
from mlkit_core.report.evaluation import evaluation_section
from mlkit_core.report.folder import read_folder
from mlkit_core.report.markup import as_text, json_block, section, table, tag, text
from mlkit_core.report.pictures import FALSE, HIT, MISSED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlkit_core.report.folder import PictureGroup, RunRecord

_OVERLAY = [
    (f"#{bytes(HIT).hex()}", "found (and true, where the truth is known)"),
    (f"#{bytes(FALSE).hex()}", "found, but not true"),
    (f"#{bytes(MISSED).hex()}", "true, but missed"),
]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder, from what it holds so far; return its path.

    Raises:
        RunFolderError: The folder is none of a run, or a file in it is not what it should be.
        PluginError: The extra `report` is not installed.
    """
    run = read_folder(folder)
    target = folder / "report.html"
    aside = folder / ".report.html.part"
    aside.write_text(render(run), encoding="utf-8")
    aside.replace(target)
    return target


def render(run: RunRecord) -> str:
    """Return the whole page."""
    name = str(run.config.get("name", run.folder.name))
    blocks = _sections(run)
    scripts = [_plotly(), _asset("page.js")]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_policy(scripts))}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        text("title", f"{name} – mlkit report"),  # noqa: RUF001  # an en dash, for people
        tag("style", _asset("page.css")),
        "</head><body>",
        tag("header", text("h1", name) + _summary(run)),
        _contents(blocks),
        tag("main", "".join(blocks.values())),
        *(tag("script", script) for script in scripts),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _policy(scripts: Sequence[str]) -> str:
    """Allow these scripts and embedded pictures, and nothing from any other place."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as err:
        hint = "pip install 'mlkit-core[report]'"
        raise PluginError("report: plotly is not installed", hint=hint) from err
    return get_plotlyjs()


def _asset(name: str) -> str:
    return files("mlkit_core.report").joinpath(name).read_text(encoding="utf-8")


def _sections(run: RunRecord) -> dict[str, str]:
    """Return title to finished section, in order; empty ones are left out."""
    anchors = {
        picture.key: _anchor(group, number)
        for group in run.groups
        for number, picture in enumerate(group.pictures)
    }
    blocks = {"Curves": _curves(run)}
    for split, record in run.evaluations.items():
        blocks[f"Evaluation on {split}"] = evaluation_section(split, record, run, anchors)
    blocks["Pictures"] = section("pictures", "Pictures", *map(_pictures, run.groups))
    for number, extra in enumerate(run.tables):
        body = text("p", extra.text, class_="muted") if extra.text else ""
        body += table(extra.columns, extra.rows)
        blocks[extra.title] = section(f"table-{number}", extra.title, body)
    blocks["Which loss reaches which part"] = _gradients(run)
    blocks["Weights"] = _weights(run)
    blocks["Run file"] = section("run-file", "Run file", text("pre", run.text))
    blocks["Environment"] = _environment(run)
    return {title: block for title, block in blocks.items() if block}


def _summary(run: RunRecord) -> str:
    """Return the few facts that a reader wants first."""
    train, facts = run.of_kind("train"), []
    if train:
        stages = list(dict.fromkeys(str(line.get("stage")) for line in train))
        facts += [("stages", ", ".join(stages)), ("steps", train[-1].get("step"))]
        monitor, more = run.monitored(stages[-1])
        scores = [
            line[monitor]
            for line in run.of_kind("val")
            if line.get("stage") == stages[-1] and monitor in line and line[monitor] is not None
        ]
        if scores:
            facts.append((f"best {monitor}", max(scores) if more else min(scores)))
    for name in ("status", "device"):
        facts += [(name, run.environment[name])] if name in run.environment else []
    facts += [("weights", "random weights")] if "random weights" in run.weights.values() else []
    chips = "".join(
        tag("span", text("b", name) + " " + escape(as_text(value)), class_="chip")
        for name, value in facts
    )
    return tag("div", chips, class_="chips")


def _contents(blocks: dict[str, str]) -> str:
    links = [
        text("a", title, href="#" + block.partition('id="')[2].partition('"')[0])
        for title, block in blocks.items()
    ]
    return tag("nav", "".join(links))


def _curves(run: RunRecord) -> str:
    drawn = "".join(
        tag("div", "", class_="plot wide" if f["layout"]["showlegend"] else "plot", data=f"f{n}")
        + json_block(f, f"f{n}")
        for n, f in enumerate(figures(run))
    )
    if not drawn:
        drawn = text("p", "metrics.jsonl holds no line yet", class_="muted")
    return section("curves", "Curves", tag("div", drawn, class_="plots"))


def _anchor(group: PictureGroup, number: int) -> str:
    return f"picture-{group.name}-{number}"


def _pictures(group: PictureGroup) -> str:
    if not group.pictures:
        return ""
    legend = "".join(
        tag("span", tag("i", "", style=f"background:{colour}") + text("span", meaning))
        for colour, meaning in (_OVERLAY if group.legend is None else group.legend)
    )
    shown = "".join(
        tag(
            "figure",
            f'<img src="{escape(picture.source)}" alt="{escape(picture.key)}">'
            + tag("figcaption", text("b", picture.key) + " " + escape(picture.caption)),
            id=_anchor(group, number),
        )
        for number, picture in enumerate(group.pictures)
    )
    words = text("p", group.text, class_="muted") if group.text else ""
    title = text("h3", group.title) + words + tag("div", legend, class_="legend")
    return title + tag("div", shown, class_="pictures")


def _gradients(run: RunRecord) -> str:
    records = run.of_kind("gradients")
    if not records:
        return ""
    norms: dict[str, dict[str, float]] = records[-1]["table"]  # loss to part to norm
    parts = list(dict.fromkeys(part for row in norms.values() for part in row))
    rows = [[part, *(row.get(part, 0.0) for row in norms.values())] for part in parts]
    said = f"gradient norms at step {records[-1].get('step')}"
    body = text("p", said, class_="muted") + table(["part", *norms], rows)
    return section("gradients", "Which loss reaches which part", body)


def _weights(run: RunRecord) -> str:
    """Return where each encoder's weights came from: a sha256, or the words "random weights"."""
    if not run.weights:
        return ""
    said = text("p", "Where training started from; other parts start anew.", class_="muted")
    rows = [[part, source] for part, source in run.weights.items()]
    return section("weights", "Weights", said, table(["part", "weights"], rows))


def _environment(run: RunRecord) -> str:
    flat = {k: v for k, v in run.environment.items() if not isinstance(v, dict)}
    for group in run.environment.values():
        flat |= group if isinstance(group, dict) else {}
    rows = [[name, value] for name, value in flat.items()]
    said = table(["what", "value"], rows) if rows else ""
    if run.warnings:
        said += text("h3", "Warnings in log.txt") + text("pre", "\n".join(run.warnings[-50:]))
    return section("environment", "Environment", said)
