"""Figures of `metrics.jsonl`, as the plain values that plotly.js draws."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.report.folder import Record, RunRecord

Figure = dict[str, Any]
_BESIDE = {"kind", "stage", "epoch", "step"}
# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333"]


def figures(run: RunRecord) -> list[Figure]:
    """Return the run's curves: loss and its parts, learning rate, gradient norm, metrics."""
    train, val = run.of_kind("train"), run.of_kind("val")
    parts = [name for name in _names(train) if name not in ("lr", "grad_norm")]
    metrics = _names(val)
    shares = [name for name in metrics if _is_share(val, name)]
    others = [n for n in metrics if n not in shares and not n.endswith(("_low", "_high"))]
    wanted = [
        ("Loss and its parts", train, parts),
        (shares[0] if len(shares) == 1 else "Metrics within 0..1", val, shares),
    ]
    wanted += [("Learning rate", train, ["lr"]), ("Gradient norm", train, ["grad_norm"])]
    wanted += [(name, val, [name]) for name in others if not _is_count(val, name)]
    made = [_figure(title, lines, names, run) for title, lines, names in wanted]
    return [figure for figure in made if figure["data"]]


def _names(lines: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in line if key not in _BESIDE))


def _values(lines: Sequence[Record], name: str) -> list[float]:
    return [line[name] for line in lines if isinstance(line.get(name), int | float)]


def _is_share(lines: Sequence[Record], name: str) -> bool:
    beside = name.endswith(("_low", "_high"))  # intervals stand in the tables
    return not beside and all(0 <= v <= 1 or v != v for v in _values(lines, name))


def _is_count(lines: Sequence[Record], name: str) -> bool:
    values = _values(lines, name)
    return len(set(values)) == 1 and float(values[0]).is_integer()


def _figure(title: str, lines: Sequence[Record], names: Sequence[str], run: RunRecord) -> Figure:
    mode = "lines+markers" if len(lines) < 60 else "lines"
    data: list[Figure] = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line and "step" in line]
        if points:
            steps, values = zip(*points, strict=True)
            trace = {"x": steps, "y": values, "name": escape(name), "type": "scatter", "mode": mode}
            data.append({**trace, "marker": {"size": 5}})
    return {"data": data, "layout": _layout(title, run, many=len(data) > 1)}


def _layout(title: str, run: RunRecord, *, many: bool) -> Figure:
    axis = {"gridcolor": "#e6e9ee", "zerolinecolor": "#cdd3dc", "automargin": True}
    shapes, notes = _stage_marks(run)
    return {
        "title": {"text": escape(title), "x": 0.01, "xanchor": "left", "font": {"size": 15}},
        "xaxis": {**axis, "title": {"text": "step"}},
        "yaxis": {**axis},
        "showlegend": many,
        "legend": {"orientation": "h", "y": -0.25},
        "hovermode": "x unified",
        "colorway": _COLOURS,
        "margin": {"l": 56, "r": 16, "t": 44, "b": 44},
        "height": 360 if many else 280,
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1f2733"},
        "shapes": shapes,
        "annotations": notes,
    }


def _stage_marks(run: RunRecord) -> tuple[list[Figure], list[Figure]]:
    """Return a dashed line and a word where each stage starts, if there are several."""
    starts: dict[str, float] = {}
    last = 0.0
    for line in run.of_kind("train"):
        starts.setdefault(str(line.get("stage", "")), last)
        last = line.get("step", last)
    if len(starts) < 2:
        return [], []
    upright = {"yref": "paper", "line": {"dash": "dot", "width": 1, "color": "#8a94a3"}}
    shapes = [
        {**upright, "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1} for x in starts.values()
    ]
    beside = {"yref": "paper", "y": 1.0, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
    notes = [{**beside, "x": x, "text": escape(stage)} for stage, x in starts.items()]
    return shapes, notes
