"""The contact sheet: one line for each object, with the frames that decided its class."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from mlkit_dvis.drawing.crops import object_crop
from mlkit_dvis.drawing.plots import track_plot
from mlkit_dvis.drawing.selection import key_frames
from mlkit_dvis.drawing.shapes import decode
from mlkit_dvis.drawing.text import fitted, font, plain, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.footage import Footage
    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.selection import TrackRow

CROPS = 5
_SIDE, _GAP, _MARGIN = 150, 8, 20
_WORDS, _PLOT = 230, 400  # widths of the first and last column
_LINE = _SIDE + 22 + 2 * 14  # crop, its caption, and what is around
_TOP = 74
_WIDTH = 2 * _MARGIN + _WORDS + CROPS * (_SIDE + _GAP) + _GAP + _PLOT
_INK: Colour = (28, 28, 28)
_PALE: Colour = (110, 110, 110)
_RULE: Colour = (222, 222, 222)


class ContactSheet:
    """Collects crops while the frames go by, then draws everything.

    Args:
        rows: The objects, best first.
        footage: Of the video.
        classes: Names, by label.
    """

    def __init__(self, rows: Sequence[TrackRow], footage: Footage, classes: Sequence[str]) -> None:
        self._rows, self._footage, self._classes = rows, footage, classes
        self._keys = [key_frames(row, CROPS) for row in rows]
        self._wanted: dict[int, list[int]] = defaultdict(list)  # frame -> rows to cut out
        for index, keys in enumerate(self._keys):
            for key in keys:
                self._wanted[key].append(index)
        self._crops: dict[tuple[int, int], Picture] = {}

    def add(self, index: int, frame: Picture) -> None:
        """Cut out of a frame what the sheet shows of it."""
        for row in self._wanted.get(index, ()):
            shape = decode(self._rows[row].track.rles[index])
            if shape is not None:
                crop = object_crop(frame, shape, self._rows[row].colour, _SIDE)
                self._crops[row, index] = crop

    def draw(self) -> Image.Image:
        """Return the sheet, of what has been collected so far."""
        sheet = Image.new("RGB", (_WIDTH, _TOP + _LINE * max(len(self._rows), 1)), "white")
        draw = ImageDraw.Draw(sheet)
        self._title(draw)
        if not self._rows:
            draw.text((_MARGIN, _TOP + 14), "no object was reported", fill=_PALE, font=font(16))
        for number in range(len(self._rows)):
            self._draw_row(sheet, draw, number, _TOP + number * _LINE)
        return sheet

    def _title(self, draw: ImageDraw.ImageDraw) -> None:
        footage = self._footage
        name = footage.path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        title = fitted(name, 24, _WIDTH - 2 * _MARGIN, bold=True)
        draw.text((_MARGIN, 12), title, fill=_INK, font=font(24, bold=True))
        height, width = footage.size
        parts = [f"{width} x {height} px", f"{footage.frames} frames"]
        parts += [f"{footage.fps:.4g} fps"] if footage.fps else []
        parts += [f"every {footage.stride}th frame"] if footage.stride > 1 else []
        objects = f"{len(self._rows)} object{'' if len(self._rows) == 1 else 's'}"
        text = "   ·   ".join(
            [*parts, objects, "shown: the frames that counted most for the class"]
        )
        draw.text((_MARGIN, 45), text, fill=_PALE, font=font(13))

    def _draw_row(
        self, sheet: Image.Image, draw: ImageDraw.ImageDraw, number: int, top: int
    ) -> None:
        row, keys = self._rows[number], self._keys[number]
        draw.line((_MARGIN, top, _WIDTH - _MARGIN, top), fill=_RULE)
        self._words(draw, row, top + 14)
        left = _MARGIN + _WORDS
        for key in keys:
            crop = self._crops.get((number, key))
            if crop is not None:
                sheet.paste(Image.fromarray(crop), (left, top + 14))
            self._caption(draw, row, key, (left, top + 14 + _SIDE + 4))
            left += _SIDE + _GAP
        plot = track_plot(row, keys, self._footage, (_PLOT, _SIDE + 22))
        sheet.paste(plot, (_WIDTH - _MARGIN - _PLOT, top + 14))

    def _caption(
        self, draw: ImageDraw.ImageDraw, row: TrackRow, frame: int, place: tuple[int, int]
    ) -> None:
        """Write a crop's frame and time to the left and its class weight to the right."""
        seconds, weights = self._footage.seconds(frame), row.track.frame_weights
        time = f" · {seconds:.2f} s" if seconds is not None else ""
        draw.text(place, f"frame {frame + 1}{time}", fill=_PALE, font=font(11))
        if weights:
            share = f"{100 * weights[frame]:.1f} %"
            end = (place[0] + _SIDE - text_width(share, 11, bold=True), place[1])
            draw.text(end, share, fill=_INK, font=font(11, bold=True))

    def _words(self, draw: ImageDraw.ImageDraw, row: TrackRow, top: int) -> None:
        left, width = _MARGIN + 16, _WORDS - 16 - 14
        draw.rounded_rectangle((_MARGIN, top, _MARGIN + 6, top + _SIDE), 3, fill=row.colour)
        name = plain(row.name)
        letters = next((s for s in (19, 15) if text_width(name, s, bold=True) <= width), 12)
        name = fitted(name, letters, width, bold=True)
        draw.text((left, top + 19 - letters), name, fill=_INK, font=font(letters, bold=True))
        draw.text((left, top + 26), f"#{row.id}", fill=_PALE, font=font(14))
        bar = (left, top + 52, left + width - 44, top + 60)
        draw.rounded_rectangle(bar, 4, fill=_RULE)
        filled = bar[0] + max((bar[2] - bar[0]) * min(row.track.score, 1.0), 8)
        draw.rounded_rectangle((*bar[:2], filled, bar[3]), 4, fill=row.colour)
        score = f"{row.track.score:.2f}"
        draw.text((bar[2] + 8, top + 47), score, fill=_INK, font=font(15, bold=True))
        for line, text in enumerate(self._facts(row)):
            place = (left, top + 74 + 19 * line)
            draw.text(place, fitted(text, 12, width), fill=_PALE, font=font(12))

    def _facts(self, row: TrackRow) -> list[str]:
        seen, total = row.visible, len(row.track.rles)
        facts = [f"seen in {len(seen)} of {total} frames"]
        if seen:
            facts.append(f"frames {seen[0] + 1} to {seen[-1] + 1}")
            facts.append(f"mean area {sum(row.areas) / len(seen):,.0f} px")
        facts += [f"or {self._classes[label]} {score:.2f}" for label, score in row.others[:1]]
        return facts
