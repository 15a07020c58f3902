"""Writes the pictures and the table of a run's view conditioning into its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_angioseg.frames.angles import view_bin
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.views.drawing import Panel, draw, signed_panel
from mlkit_angioseg.views.grids import (
    AngleGrid,
    ChannelRange,
    Modulation,
    angle_grid,
    channel_ranges,
    modulations,
    similarities,
    strength,
    view_encoder,
)
from mlkit_core.errors import DataError
from mlkit_core.run import load_run
from mlkit_core.training.journal import LOG

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from mlkit_core.model import Model
    from mlkit_core.training.stages import Stage

Angles = tuple[float, float]
# Usual projections (Di Mario and Sutaria, Heart 2005) and the anteroposterior one.
USUAL_VIEWS: tuple[Angles, ...] = (
    (0, 0), (45, -28), (38, 25), (-20, -22), (-30, 20), (0, 35),
)  # fmt: skip
_LISTED = 40  # channels of the table
_LEGEND = [["#282828", "dots: views of the training frames"]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is drawn.

    Args:
        checkpoint: "best", "last", a checkpoint's name or path.
        channels: How many of the most view-dependent channels have a picture.
        views: What the embedding of every view is compared with, degrees.
        step_deg: Of the grid.
    """

    checkpoint: str = "best"
    channels: int = 8
    views: tuple[Angles, ...] = USUAL_VIEWS
    step_deg: float = 3.0


@dataclass
class _Book:
    """The pictures of a folder, in the order in which they are added."""

    folder: Path
    entries: list[dict[str, str]]

    def add(self, name: str, key: str, caption: str, picture: Image.Image) -> None:
        picture.save(self.folder / f"{name}.png")
        self.entries.append({"file": f"{name}.png", "key": key, "caption": caption})


def write_views(run_folder: Path, wanted: Wanted) -> dict[str, Any]:
    """Write `pictures/views` and `tables/views.json` of a run; return what is in the table.

    Raises:
        InputError: There is no such checkpoint, or its model reads no view.
    """
    run = load_run(run_folder)
    stage, _, path = run.stage_of(wanted.checkpoint)
    grid = angle_grid(wanted.step_deg)
    dots = _data_views(stage)
    found = modulations(stage.model, grid)
    ranges = channel_ranges(found, grid)
    folder = run.folder / "pictures" / "views"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    book = _Book(folder, [])
    _draw_film(book, found, ranges[: wanted.channels], grid, dots)
    _draw_similarity(book, stage.model, wanted.views, grid, dots)
    _write(folder / "index.json", _index(found, path.name, book))
    table = _table(ranges, path.name)
    if ranges:
        (run.folder / "tables").mkdir(exist_ok=True)
        _write(run.folder / "tables" / "views.json", table)
    return {"pictures": str(folder), "checkpoint": path.name, **table}


def _data_views(stage: Stage) -> list[Angles]:
    """Return the different views of the training frames; none where the data is not there."""
    data = stage.data
    if not isinstance(data, AngioFrames):
        return []
    try:
        return sorted({r.angles for r in data.rows() if r.angles and r.split == "train"})
    except DataError as err:
        LOG.warning("views of training frames are not marked: %s", str(err).splitlines()[0])
        return []


def _draw_film(
    book: _Book,
    found: Sequence[Modulation],
    ranges: Sequence[ChannelRange],
    grid: AngleGrid,
    dots: Sequence[Angles],
) -> None:
    for one in found:
        panels = []
        for name, values in (("gamma", one.gamma), ("beta", one.beta)):
            shown = strength(values)
            title = f"{one.fusion}, map {one.level}: {name}, root mean square of channels"
            panels.append(_from_zero(title, shown, dots))
        caption = "how much a view changes the features: 0 leaves them as they are"
        name = f"strength-{one.fusion}-{one.level}"
        book.add(name, f"{one.fusion}, map {one.level}", caption, draw(panels, grid))
    for number, one in enumerate(ranges):
        modulation, channel = one.modulation, one.channel
        panels = [
            signed_panel(f"{modulation.level}, channel {channel}: {name}", values, dots=dots)
            for name, values in (
                ("gamma", modulation.gamma[channel]),
                ("beta", modulation.beta[channel]),
            )
        ]
        low, high = (f"{value:.3g}" for value in one.gamma)
        caption = f"gamma {low} at {_said(one.lowest_at)} to {high} at {_said(one.highest_at)}"
        key = f"{modulation.fusion}, map {modulation.level}, channel {channel}"
        book.add(f"channel-{number:02d}", key, caption, draw(panels, grid))


def _from_zero(title: str, values: Any, dots: Sequence[Angles]) -> Panel:  # noqa: ANN401  # an array
    high = float(values.max()) or 1.0
    return Panel(title=title, values=values, low=0.0, high=high, dots=dots)


def _draw_similarity(
    book: _Book,
    model: Model,
    views: Sequence[Angles],
    grid: AngleGrid,
    dots: Sequence[Angles],
) -> None:
    maps = similarities(view_encoder(model)[1], [(float(p), float(s)) for p, s in views], grid)
    panels = [
        Panel(
            title=f"cosine with {_said(view)}",
            values=values,
            low=-1.0,
            high=1.0,
            is_signed=True,
            marks=[view],
            dots=dots,
        )
        for view, values in zip(views, maps, strict=True)
    ]
    caption = "cosine of every view's embedding with that of the ringed one"
    book.add("similarity", "view embedding", caption, draw(panels, grid))


def _said(view: Angles) -> str:
    primary = f"{'LAO' if view[0] > 0 else 'RAO'} {abs(view[0]):g}" if view[0] else "AP"
    secondary = f" {'CRA' if view[1] > 0 else 'CAU'} {abs(view[1]):g}" if view[1] else ""
    return primary + secondary


def _index(found: Sequence[Modulation], checkpoint: str, book: _Book) -> dict[str, Any]:
    text = (
        f"Checkpoint {checkpoint}. Primary angle to the right (LAO), secondary upwards (cranial). "
        "What lies far from the dots was never trained."
    )
    if found:
        text = f"FiLM gives (1 + gamma) x + beta for each channel. {text}"
    else:
        text = f"No FiLM conditions a map by the view: the embedding alone is shown. {text}"
    title = "View conditioning over the angles"
    return {"title": title, "text": text, "legend": _LEGEND, "pictures": book.entries}


def _table(ranges: Sequence[ChannelRange], checkpoint: str) -> dict[str, Any]:
    rows = [
        [
            one.modulation.fusion,
            one.modulation.level,
            one.channel,
            *(round(v, 5) for v in (one.gamma_range, *one.gamma)),
            _said(one.lowest_at),
            _said(one.highest_at),
            view_bin(one.highest_at),
            *(round(v, 5) for v in (one.beta[1] - one.beta[0], *one.beta)),
        ]
        for one in ranges[:_LISTED]
    ]
    columns = [
        "fusion", "map", "channel", "gamma range", "gamma from", "gamma to", "lowest at",
        "highest at", "highest in", "beta range", "beta from", "beta to",
    ]  # fmt: skip
    text = (
        f"Checkpoint {checkpoint}: the {len(rows)} of {len(ranges)} channels whose gamma moves "
        "most from 60 RAO to 60 LAO and 45 caudal to 45 cranial."
    )
    return {"title": "Channels by view", "text": text, "columns": columns, "rows": rows}


def _write(path: Path, value: object) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
