"""Where the segmenter looked for a track, and for every query: heat maps over the frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from mlkit_dvis.drawing.heatmaps import frame_map, heat_picture
from mlkit_dvis.drawing.overlay import draw_objects, draw_outline, line_width
from mlkit_dvis.drawing.selection import top_frame
from mlkit_dvis.drawing.shapes import decode, shape_of
from mlkit_dvis.drawing.text import file_stem, fitted, font

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.drawing.overlay import Picture
    from mlkit_dvis.drawing.selection import TrackRow
    from mlkit_dvis.drawing.shapes import Shape
    from mlkit_dvis.drawing.tracked import FrameWriter, TrackedVideo
    from mlkit_dvis.results import QueryTable

NOTE = (
    "Heat maps show the segmenter's cross-attention in one decoder layer, averaged over its heads,"
    " for the query that the track follows in that frame; each frame is scaled to its own largest"
    " value. It is masked attention: it is zero outside the mask that the layer before predicted"
    " (where that mask is empty the query may look everywhere), so dark ground was not weighed and"
    " found unimportant, it was not looked at."
)
LONGEST_SIDE = 960  # pixels; larger frames are made smaller, the grid is coarse anyway
_CELL_WIDTH, _COLUMNS = 168, 8


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width that heat maps of a frame are drawn at."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


class TrackAttention:
    """Writes one object's attention in one layer, frame by frame, and its top frame as PNG.

    Args:
        video: With the object.
        table: Of the video's queries.
        row: The object.
        layer: Of the decoder.
        writer: Takes the frames.
        picture: Where the PNG goes.
    """

    def __init__(
        self,
        video: TrackedVideo,
        table: QueryTable,
        row: TrackRow,
        layer: int,
        *,
        writer: FrameWriter,
        picture: Path,
    ) -> None:
        self._result, self._footage, self._table = video.result, video.footage, table
        self._row, self._layer, self._writer, self._picture = row, layer, writer, picture
        self._top = top_frame(row)

    def add(self, index: int, frame: Picture) -> None:
        """Draw a frame."""
        row, query = self._row, self._row.query(index)
        size = shown_size(self._result.size)
        small = resized(frame, size)
        caption = f"layer {self._layer} · {row.title} · {self._footage.caption(index)}"
        if query < 0:
            heat = np.zeros(size, np.float32)
            caption += " · follows no query"
        else:
            attention = self._table.attention(index, self._layer)[query]
            heat = frame_map(attention, self._result.content, size)
        picture = heat_picture(small, heat)
        shape = resized_shape(decode(row.track.rles[index]), self._result.size, size)
        if shape is not None:
            draw_outline(picture, shape, row.colour, line_width(small))
        picture = draw_objects(picture, (), caption)
        self._writer.write(picture)
        if index == self._top:
            Image.fromarray(picture).save(self._picture)


def attention_stem(row: TrackRow, layer: int) -> str:
    """Return the name of an object's attention files, without ending."""
    return f"{file_stem(f'track{row.id}-{row.name}')}_layer{layer}"


def resized(frame: Picture, size: tuple[int, int]) -> Picture:
    """Return a frame at `size` height and width."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BOX))


def resized_shape(shape: Shape | None, old: tuple[int, int], new: tuple[int, int]) -> Shape | None:
    """Return a mask of frames of one size in frames of another."""
    if shape is None or old == new:
        return shape
    mask = np.zeros(old, np.bool_)
    mask[shape.window] = shape.mask
    image = Image.fromarray(mask).resize((new[1], new[0]), Image.Resampling.NEAREST)
    return shape_of(np.asarray(image))


def grid_frames(num_frames: int, count: int) -> tuple[int, ...]:
    """Return frames spread evenly over a video, the first and last among them."""
    steps = min(count, num_frames)
    return tuple(round(i * (num_frames - 1) / max(steps - 1, 1)) for i in range(steps))


class QueryGrids:
    """Writes, for some frames, one picture of the attention of every query, best score first.

    Queries that a reported object follows have a frame in its colour.

    Args:
        video: With its reported objects.
        table: Of its queries.
        frames: Which ones.
        layers: Of the decoder.
        folder: Where the PNGs go.
    """

    def __init__(
        self,
        video: TrackedVideo,
        table: QueryTable,
        frames: Sequence[int],
        layers: Sequence[int],
        folder: Path,
    ) -> None:
        self._frames, self._layers, self._folder = frozenset(frames), layers, folder
        self._result, self._rows, self._classes = video.result, video.rows, video.classes
        self._table = table
        self.written: list[Path] = []

    def add(self, index: int, frame: Picture) -> None:
        """Draw and write the grids of a frame that is wanted."""
        if index in self._frames:
            for layer in self._layers:
                path = self._folder / f"queries_frame{index + 1:05d}_layer{layer}.png"
                self._grid(index, frame, layer).save(path)
                self.written.append(path)

    def _grid(self, index: int, frame: Picture, layer: int) -> Image.Image:
        height, width = self._result.size
        size = (max(1, round(_CELL_WIDTH * height / width)), _CELL_WIDTH)
        small = resized(frame, size)
        maps = self._table.attention(index, layer)  # [Q, h, w]
        order = np.argsort(-self._table.scores[index], kind="stable")
        cell = (_CELL_WIDTH + 6, size[0] + 20)
        lines = -(-len(order) // _COLUMNS)
        sheet = Image.new("RGB", (_COLUMNS * cell[0] + 6, lines * cell[1] + 6), "white")
        draw = ImageDraw.Draw(sheet)
        owners = {row.query(index): row for row in self._rows if row.query(index) >= 0}
        for number, query in enumerate(order.tolist()):
            line, column = divmod(number, _COLUMNS)
            left, top = 6 + column * cell[0], 6 + line * cell[1]
            owner = owners.get(query)
            picture = self._cell(small, maps[query], owner.colour if owner else None)
            sheet.paste(Image.fromarray(picture), (left, top))
            text = self._caption(index, query, owner)
            place = (left, top + size[0] + 2)
            draw.text(place, fitted(text, 11, _CELL_WIDTH), fill=(60, 60, 60), font=font(11))
        return sheet

    def _cell(
        self, small: Picture, attention: npt.NDArray[np.float32], colour: Colour | None
    ) -> Picture:
        heat = frame_map(attention, self._result.content, (small.shape[0], small.shape[1]))
        picture = heat_picture(small, heat)
        if colour is not None:
            picture[:3], picture[-3:], picture[:, :3], picture[:, -3:] = (colour,) * 4
        return picture

    def _caption(self, index: int, query: int, owner: TrackRow | None) -> str:
        name = self._classes[int(self._table.labels[index, query])]
        score = float(self._table.scores[index, query])
        followed = f" #{owner.id}" if owner is not None else ""
        return f"q{query} {name} {score:.2f}{followed}"
