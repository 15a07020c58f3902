"""Heat maps over the grid of angles, as pictures: colours, axes, a scale, marks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlkit_angioseg.views.grids import AngleGrid

# Steps of ColorBrewer's RdBu (Apache-2.0), from negative to positive, and of matplotlib's
# "viridis" (CC0): both are even to the eye and told apart by colour-blind readers.
_DIVERGING = (
    (33, 102, 172),
    (103, 169, 207),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (239, 138, 98),
    (178, 24, 43),
)
_SEQUENTIAL = (
    (68, 1, 84),
    (65, 68, 135),
    (42, 120, 142),
    (34, 168, 132),
    (122, 209, 81),
    (253, 231, 37),
)
PX_PER_DEG = 3
_LEFT, _TOP, _BOTTOM, _RIGHT = 58, 26, 40, 78
_TICK_DEG, _FONT = 30, 12
_FACES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One heat map.

    Args:
        title: Above it.
        values: `[S, P]` over the grid.
        low: Value of the scale's lower end.
        high: Of its upper end.
        is_signed: Whether 0 is white and in the middle.
        marks: Views to ring, degrees.
        dots: Views of the data, degrees.
    """

    title: str
    values: NDArray[np.float64]
    low: float
    high: float
    is_signed: bool = False
    marks: Sequence[tuple[float, float]] = ()
    dots: Sequence[tuple[float, float]] = ()


def signed_panel(title: str, values: NDArray[np.float64], **about: object) -> Panel:
    """Return a panel whose scale is symmetric around 0."""
    peak = float(np.abs(values).max()) or 1.0
    return Panel(title=title, values=values, low=-peak, high=peak, is_signed=True, **about)  # pyright: ignore[reportArgumentType]


def colours(values: NDArray[np.float64], panel: Panel) -> NDArray[np.uint8]:
    """Return colours `[…, 3]` of values by a panel's scale."""
    steps = _DIVERGING if panel.is_signed else _SEQUENTIAL
    level = (values - panel.low) / max(panel.high - panel.low, 1e-12)
    places = np.linspace(0, 1, len(steps))
    channels = [np.interp(level, places, [step[c] for step in steps]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def draw(panels: Sequence[Panel], grid: AngleGrid, columns: int = 2) -> Image.Image:
    """Return panels side by side: primary angle to the right, secondary upwards."""
    pictures = [_panel(panel, grid) for panel in panels]
    width, height = pictures[0].size
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), _PAPER)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _panel(panel: Panel, grid: AngleGrid) -> Image.Image:
    wide, high = _extent(grid)
    canvas = Image.new("RGB", (_LEFT + wide + _RIGHT, _TOP + high + _BOTTOM), _PAPER)
    # Rows of the values go from caudal to cranial; a picture's go downwards.
    heat = Image.fromarray(colours(_enlarged(panel.values[::-1], (high, wide)), panel))
    canvas.paste(heat, (_LEFT, _TOP))
    pen = ImageDraw.Draw(canvas)
    pen.text((_LEFT, 6), panel.title, fill=_INK, font=_font())
    _axes(pen, grid)
    _scale(pen, canvas, panel, (_LEFT + wide + 14, _TOP, high))
    for view in panel.dots:
        _ring(pen, view, grid, 3, fill=_PAPER)
        _ring(pen, view, grid, 2, fill=_INK)
    for view in panel.marks:
        _ring(pen, view, grid, 5, outline=_PAPER, width=3)
        _ring(pen, view, grid, 5, outline=_INK)
    return canvas


def _extent(grid: AngleGrid) -> tuple[int, int]:
    spans = (float(np.ptp(axis)) for axis in (grid.primary, grid.secondary))
    wide, high = (round(span * PX_PER_DEG) + 1 for span in spans)
    return wide, high


def _enlarged(values: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return values with nodes at the outermost pixels' centres, linear between them."""
    for axis, pixels in enumerate(size):
        places = np.linspace(0, values.shape[axis] - 1, pixels)
        low = np.minimum(places.astype(int), max(values.shape[axis] - 2, 0))
        part = np.expand_dims(places - low, 1 - axis)
        above = values.take(np.minimum(low + 1, values.shape[axis] - 1), axis)
        values = values.take(low, axis) * (1 - part) + above * part
    return values


def place(view: tuple[float, float], grid: AngleGrid) -> tuple[float, float]:
    """Return a view's pixel in its panel, column and row."""
    column = _LEFT + (view[0] - float(grid.primary[0])) * PX_PER_DEG
    row = _TOP + (float(grid.secondary[-1]) - view[1]) * PX_PER_DEG
    return column, row


def _ring(
    pen: ImageDraw.ImageDraw,
    view: tuple[float, float],
    grid: AngleGrid,
    radius: float,
    *,
    fill: tuple[int, int, int] | None = None,
    outline: tuple[int, int, int] | None = None,
    width: int = 1,
) -> None:
    inside = (
        grid.primary[0] <= view[0] <= grid.primary[-1]
        and grid.secondary[0] <= view[1] <= grid.secondary[-1]
    )
    if inside:
        x, y = place(view, grid)
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=fill, outline=outline, width=width)


def _axes(pen: ImageDraw.ImageDraw, grid: AngleGrid) -> None:
    font = _font()
    (left, bottom), (right, top) = (
        place((float(grid.primary[i]), float(grid.secondary[i])), grid) for i in (0, -1)
    )
    pen.rectangle((left, top, right, bottom), outline=_INK)
    for degrees in _ticks(grid.primary):
        x, _ = place((degrees, 0), grid)
        pen.line((x, bottom, x, bottom + 4), fill=_INK)
        name = _side(degrees, "LAO", "RAO")
        pen.text((x, bottom + 6), name, fill=_INK, font=font, anchor="ma")
    for degrees in _ticks(grid.secondary):
        _, y = place((0, degrees), grid)
        pen.line((left - 4, y, left, y), fill=_INK)
        pen.text((left - 6, y), _side(degrees, "CRA", "CAU"), fill=_INK, font=font, anchor="rm")


def _ticks(axis: NDArray[np.float64]) -> list[float]:
    first = -(-float(axis[0]) // _TICK_DEG) * _TICK_DEG
    return [float(t) for t in np.arange(first, float(axis[-1]) + 1e-9, _TICK_DEG)]


def _side(degrees: float, positive: str, negative: str) -> str:
    return f"{positive if degrees > 0 else negative} {abs(degrees):g}" if degrees else "0"


def _scale(
    pen: ImageDraw.ImageDraw, canvas: Image.Image, panel: Panel, at: tuple[int, int, int]
) -> None:
    left, top, high = at
    values = np.linspace(panel.high, panel.low, high)[:, None].repeat(12, 1)
    canvas.paste(Image.fromarray(colours(values, panel)), (left, top))
    pen.rectangle((left, top, left + 12, top + high - 1), outline=_INK)
    middle = (panel.low + panel.high) / 2
    for share, value in ((0.0, panel.high), (0.5, middle), (1.0, panel.low)):
        y = top + share * (high - 1)
        pen.text((left + 17, y), f"{value:.3g}", fill=_INK, font=_font(), anchor="lm")


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    for name in _FACES:
        try:
            return ImageFont.truetype(name, _FONT)
        except OSError:
            continue
    face = ImageFont.load_default(_FONT)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise BuildError("pillow was built without FreeType", hint="install its wheel from PyPI")
    return face
