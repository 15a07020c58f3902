"""From rows of a model to results: top scores, masks at original size, run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlkit_core.errors import DataError
from mlkit_dvis.assembly import flattened_topk, resize_masks, to_rles
from mlkit_dvis.results import InstanceTrack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mlkit_core.types import SampleMeta
    from mlkit_dvis.results import Rle


@dataclass(frozen=True)
class Layout:
    """How masks of the model's input become masks of the original frames.

    Args:
        padded: Height and width of the model's input.
        image: Of its part that shows the frame (top left).
        output: Of the original frame.
    """

    padded: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    @classmethod
    def of(cls, meta: SampleMeta, padded: tuple[int, int]) -> Layout:
        """Return the layout that a sample's letterbox describes."""
        if meta.size is None or meta.letterbox is None:
            raise DataError(f"{meta.key}: its original size and letterbox are not known")
        return cls(padded, meta.letterbox.size, meta.size)

    @property
    def content(self) -> tuple[float, float]:
        """Shares of the padded height and width that show the frame."""
        return self.image[0] / self.padded[0], self.image[1] / self.padded[1]


class RowSource(Protocol):
    """Candidate rows of a video: what they are, and where they are."""

    logits: Tensor  # [N, K + 1]; the last class is "no object"

    def masks(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield mask logits `[n, t, h, w]` of these rows, window by window in order."""
        ...

    def ids(self, row: int) -> int:
        """Return the row's name, stable within the video."""
        ...

    def frame_weights(self, row: int) -> tuple[float, ...]:
        """Return how much each frame counted for the class; empty where frames count alike."""
        ...

    def frame_queries(self, row: int) -> tuple[int, ...]:
        """Return the segmenter's query that the row follows in each frame, -1 for none."""
        ...


def write_tracks(
    source: RowSource, layout: Layout, max_tracks: int
) -> tuple[InstanceTrack, ...]:  # fmt: skip
    """Return the best (row, class) pairs as tracks, best first; masks leave window by window."""
    if len(source.logits) == 0:
        return ()
    scores, labels, rows = flattened_topk(source.logits, max_tracks)
    order = scores.argsort(descending=True, stable=True).tolist()
    unique = sorted(set(rows.tolist()))
    rles: dict[int, list[Rle | None]] = {row: [] for row in unique}
    for logits in source.masks(unique):
        masks = resize_masks(logits, layout.padded, layout.image, layout.output)  # [n, t, H, W]
        for row, frames in zip(unique, masks, strict=True):
            rles[row] += to_rles(frames)
    return tuple(
        InstanceTrack(
            label=int(labels[i]),
            score=float(scores[i]),
            rles=tuple(rles[int(rows[i])]),
            row=source.ids(int(rows[i])),
            frame_weights=source.frame_weights(int(rows[i])),
            frame_queries=source.frame_queries(int(rows[i])),
        )
        for i in order
    )


@dataclass(frozen=True)
class TensorRows:
    """Rows that lie in memory: logits `[N, K + 1]`, masks `[N, T, h, w]`."""

    logits: Tensor
    values: Tensor

    def masks(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield the chosen rows' masks at once."""
        yield self.values[list(rows)]

    def ids(self, row: int) -> int:
        """Return the row itself."""
        return row

    def frame_weights(self, row: int) -> tuple[float, ...]:
        """Return nothing: frames count alike, or it is not known."""
        del row
        return ()

    def frame_queries(self, row: int) -> tuple[int, ...]:
        """Return nothing: it is not known."""
        del row
        return ()
