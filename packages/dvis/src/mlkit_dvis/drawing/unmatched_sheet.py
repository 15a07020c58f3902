"""A picture of the places that were looked at and not reported."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mlkit_dvis.drawing.crops import crop_box, plain_crop
from mlkit_dvis.drawing.heatmaps import frame_map, heat_picture
from mlkit_dvis.drawing.text import fitted, font
from mlkit_dvis.drawing.unmatched import main_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.crops import Box
    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.tracked import TrackedVideo
    from mlkit_dvis.drawing.unmatched import UnmatchedQuery
    from mlkit_dvis.results import QueryTable

_COLUMNS, _SIDE, _GAP, _MARGIN, _TOP = 4, 160, 18, 20, 78
_CELL = (2 * _SIDE + 2 + _GAP, _SIDE + 40 + _GAP)
_INK: Colour = (28, 28, 28)
_PALE: Colour = (110, 110, 110)
_SPREAD = 2.0  # standard deviations of the attention that a crop shows to each side
_LEAST = 0.14  # of the frame's shorter side: half of the smallest crop


class UnmatchedSheet:
    """Collects crops while the frames go by, then draws them: each as it is and with attention.

    Args:
        queries: What to show, in order.
        video: Where they were found.
        table: Of its queries.
    """

    def __init__(
        self, queries: Sequence[UnmatchedQuery], video: TrackedVideo, table: QueryTable
    ) -> None:
        self._queries, self._result, self._table = queries, video.result, table
        self._footage, self._classes = video.footage, video.classes
        self._wanted: dict[int, list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            self._wanted[query.frame].append(number)
        self._crops: dict[int, Picture] = {}

    def add(self, index: int, frame: Picture) -> None:
        """Cut out of a frame what the sheet shows of it."""
        for number in self._wanted.get(index, ()):
            query = self._queries[number]
            attention = self._table.attention(index, main_layer(self._table))[query.query]
            heat = frame_map(attention, self._result.content, self._result.size)
            box = _looked_at(heat, query)
            pair = [
                plain_crop(frame, box, _SIDE),
                plain_crop(heat_picture(frame, heat), box, _SIDE),
            ]
            rule = np.full((_SIDE, 2, 3), 255, np.uint8)
            self._crops[number] = np.concatenate([pair[0], rule, pair[1]], 1)

    def draw(self) -> Image.Image:
        """Return the sheet."""
        lines = max(-(-len(self._queries) // _COLUMNS), 1)
        size = (2 * _MARGIN + _COLUMNS * _CELL[0] - _GAP, _TOP + lines * _CELL[1])
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((_MARGIN, 14), "Looked at, not reported", fill=_INK, font=font(22, bold=True))
        told = "no reported object follows them; by score times share of attention outside masks"
        draw.text((_MARGIN, 46), told, fill=_PALE, font=font(13))
        if not self._queries:
            draw.text((_MARGIN, _TOP), "there are none", fill=_PALE, font=font(16))
        for number in range(len(self._queries)):
            line, column = divmod(number, _COLUMNS)
            place = (_MARGIN + column * _CELL[0], _TOP + line * _CELL[1])
            self._draw_cell(sheet, draw, number, place)
        return sheet

    def _draw_cell(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, number: int, place: tuple[int, int]
    ) -> None:
        query, (left, top) = self._queries[number], place
        if number in self._crops:
            sheet.paste(Image.fromarray(self._crops[number]), place)
        seconds = self._footage.seconds(query.frame)
        time = f" · {seconds:.2f} s" if seconds is not None else ""
        name = fitted(f"{self._classes[query.label]} {query.score:.2f}", 13, _SIDE, bold=True)
        draw.text((left, top + _SIDE + 3), name, fill=_INK, font=font(13, bold=True))
        where = f"frame {query.frame + 1}{time} · query {query.query}"
        draw.text((left + _SIDE + 2, top + _SIDE + 4), where, fill=_PALE, font=font(11))
        said = f"no object {query.no_object:.2f} · {100 * query.outside:.0f} % of attention outside"
        draw.text((left, top + _SIDE + 22), said, fill=_PALE, font=font(11))


def _looked_at(heat: np.ndarray, query: UnmatchedQuery) -> Box:
    """Return a square around the centre of attention, as wide as it is spread."""
    height, width = heat.shape
    total = max(float(heat.sum()), 1e-12)
    rows, columns = heat.sum(1), heat.sum(0)
    spread_y = (rows @ (np.arange(height) + 0.5 - query.y) ** 2 / total) ** 0.5
    spread_x = (columns @ (np.arange(width) + 0.5 - query.x) ** 2 / total) ** 0.5
    half = max(_SPREAD * max(spread_x, spread_y), _LEAST * min(height, width))
    half = min(half, min(height, width) / 2)
    box = (query.x - half, query.y - half, query.x + half, query.y + half)
    return crop_box(box, (height, width))
