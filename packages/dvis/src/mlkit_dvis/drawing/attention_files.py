"""The folder `attention`: a video of each object and layer, and grids of all queries."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from mlkit_dvis.drawing.attention import NOTE, TrackAttention, attention_stem, shown_size
from mlkit_dvis.drawing.tracked import play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlkit_dvis.drawing.tracked import DrawingOptions, FrameSink, Tell, TrackedVideo
    from mlkit_dvis.results import QueryTable

FOLDER = "attention"
_AT_ONCE = 4  # videos written at the same time; each encoder holds dozens of frames


def write_attention(
    video: TrackedVideo, table: QueryTable, folder: Path, options: DrawingOptions, tell: Tell
) -> Iterator[Path]:
    """Write each object's attention, a few objects at each reading of the video."""
    folder.mkdir(exist_ok=True)
    (folder / "README.txt").write_text(NOTE + "\n", encoding="utf-8")
    yield folder / "README.txt"
    wanted = [(row, layer) for row in video.rows for layer in options.layers]
    ending = ".png" if video.still else ".mp4"
    for first in range(0, len(wanted), _AT_ONCE):
        sinks: list[FrameSink] = []
        finished: list[Path] = []
        with ExitStack() as files:
            for row, layer in wanted[first : first + _AT_ONCE]:
                name = attention_stem(row, layer)
                target, picture = folder / f"{name}{ending}", folder / f"{name}.png"
                size = shown_size(video.result.size)
                writer = files.enter_context(options.open(target, video, size))
                drawn = TrackAttention(video, table, row, layer, writer=writer, picture=picture)
                sinks.append(drawn)
                finished += dict.fromkeys([target, picture])
            play(video, sinks, f"attention {first // _AT_ONCE + 1}", tell)
        yield from finished
