"""Small plots over the frames of a video: class weights above, mask area below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mlkit_dvis.drawing.text import font, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.selection import TrackRow

_FINE = 3  # lines are drawn this much larger, then made smaller
_TEXT = 11
_INK: Colour = (70, 70, 70)
_FRAME: Colour = (205, 205, 205)
_AREA: Colour = (168, 176, 186)
_ABSENT: Colour = (240, 240, 240)
_LEFT, _BOTTOM, _TITLE = 6, 16, 15  # pixels around the curves


def track_plot(
    row: TrackRow, keys: Sequence[int], footage: Footage, size: tuple[int, int]
) -> Image.Image:
    """Return an object's class weights and mask areas over time, with the shown frames marked.

    Args:
        row: The object.
        keys: Frames that are shown beside the plot.
        footage: Of the video.
        size: Width and height in pixels.
    """
    width, height = size
    panel = (height - _BOTTOM) // 2
    image = Image.new("RGB", size, "white")
    weights = row.track.frame_weights
    peak = (
        f"class weight by frame, max {100 * max(weights):.3g} %"
        if weights
        else "class weight: no refiner ran"
    )
    image.paste(_panel(weights, row, keys, (width, panel), colour=row.colour, title=peak), (0, 0))
    largest = f"mask area, max {max(row.areas, default=0):,} px"
    image.paste(
        _panel(row.areas, row, keys, (width, panel), colour=_AREA, title=largest), (0, panel)
    )
    _axis(ImageDraw.Draw(image), len(row.areas), footage, size)
    return image


def _panel(
    values: Sequence[float],
    row: TrackRow,
    keys: Sequence[int],
    size: tuple[int, int],
    *,
    colour: Colour,
    title: str,
) -> Image.Image:
    width, height = size
    inner = (width - 2 * _LEFT, height - _TITLE - 4)
    image = Image.new("RGB", size, "white")
    image.paste(_curve(values, row, keys, inner, colour), (_LEFT, _TITLE))
    draw = ImageDraw.Draw(image)
    draw.line((_LEFT, height - 4, width - _LEFT, height - 4), fill=_FRAME)
    draw.text((_LEFT, 1), title, fill=_INK, font=font(_TEXT))
    return image


def _curve(
    values: Sequence[float],
    row: TrackRow,
    keys: Sequence[int],
    size: tuple[int, int],
    colour: Colour,
) -> Image.Image:
    width, height = size[0] * _FINE, size[1] * _FINE
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    frames = max(len(row.areas), 1)
    for first, last in _runs([pixels == 0 for pixels in row.areas]):
        draw.rectangle((first * width / frames, 0, last * width / frames, height), fill=_ABSENT)
    heights = column_heights(values, width)
    top = float(heights.max(initial=0.0))
    if top > 0:
        tops = height - heights / top * (height - _FINE)
        outline = [(x, float(y)) for x, y in enumerate(tops)]
        draw.polygon([(0, height), *outline, (width - 1, height)], fill=colour)
        draw.line(outline, fill=_darker(colour), width=_FINE)
    for key in keys:
        middle = (key + 0.5) * width / frames
        draw.line((middle, 0, middle, height), fill=_INK, width=_FINE // 2)
        mark = 4 * _FINE
        draw.polygon([(middle - mark, 0), (middle + mark, 0), (middle, mark * 1.4)], fill=_INK)
    return image.resize(size, Image.Resampling.LANCZOS)


def column_heights(values: Sequence[float], columns: int) -> npt.NDArray[np.float64]:
    """Return for each pixel column the largest value of the frames that fall into it."""
    if not len(values):
        return np.zeros(columns)
    series = np.asarray(values, np.float64)
    edges = np.linspace(0, len(series), columns + 1)
    starts = np.minimum(edges[:-1].astype(int), len(series) - 1)
    stops = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), starts + 1)
    return np.array([series[a:b].max() for a, b in zip(starts, stops, strict=True)])


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of each run of True."""
    padded = np.concatenate([[False], np.asarray(flags, bool), [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _axis(draw: ImageDraw.ImageDraw, frames: int, footage: Footage, size: tuple[int, int]) -> None:
    """Write the first and last frame below the curves, with the time of the last."""
    width, height = size
    seconds = footage.seconds(max(frames - 1, 0))
    last = f"{frames}" + (f" ({seconds:.1f} s)" if seconds is not None else "")
    face, top = font(_TEXT), height - _BOTTOM + 1
    draw.text((_LEFT, top), "frame 1", fill=_INK, font=face)
    draw.text((width - _LEFT - text_width(last, _TEXT), top), last, fill=_INK, font=face)


def _darker(colour: Colour) -> Colour:
    return colour[0] * 7 // 10, colour[1] * 7 // 10, colour[2] * 7 // 10
