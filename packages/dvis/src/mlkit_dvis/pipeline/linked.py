"""The segmenter's queries, linked from frame to frame by their likeness (MinVIS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_dvis.assembly import Linker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mlkit_dvis.features import Window
    from mlkit_dvis.pipeline.spill import Spill

_READ = 5  # frames of masks in memory at once


class LinkedQueries:
    """Rows that follow the queries of frame 0; fillers beside the tracks, or the tracks themselves.

    Args:
        spill: Keeps every frame's embeddings, and masks where asked for.
        masks: Whether this is what results are made of.
    """

    def __init__(self, spill: Spill, *, masks: bool) -> None:
        self.embeds = spill.file("frame_embeds")
        self._masks = spill.file("query_masks") if masks else None
        self._linker = Linker()
        self._orders: list[Tensor] = []  # [Q] for each frame
        self._sums: Tensor | None = None

    def add(self, window: Window) -> None:
        """Link the frames of a window."""
        for t in range(window.frames):
            embeds, logits = window.pred_embds[0, :, t].T, window.pred_logits[0, t]  # [Q, …]
            order = self._linker.add(embeds)
            linked = logits[order]
            self._sums = linked.clone() if self._sums is None else self._sums + linked
            self._orders.append(order.to("cpu", torch.int32))
            self.embeds.append(embeds)
            if self._masks is not None:
                self._masks.append(window.pred_masks[0, :, t])

    @property
    def logits(self) -> Tensor:
        """Mean over the frames, `[Q, K + 1]`."""
        if self._sums is None:
            return torch.zeros(0, 1)
        return self._sums / len(self._orders)

    def linked_embeds(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """Return the embeddings of rows over frames, `[t, n, C]`, on the CPU."""
        order = self._order(start, stop)[:, rows.cpu()]  # [t, n]
        embeds = self.embeds.read_range(start, stop)  # [t, Q, C]
        return embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))

    def _order(self, start: int, stop: int) -> Tensor:
        return torch.stack(self._orders[start:stop]).long()

    def masks(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield mask logits `[n, t, h, w]` of these rows, window by window."""
        if self._masks is None:
            return
        for start in range(0, len(self._orders), _READ):
            stop = min(start + _READ, len(self._orders))
            order = self._order(start, stop)[:, list(rows)]
            masks = self._masks.read_range(start, stop)
            frames = [frame[queries] for frame, queries in zip(masks, order, strict=True)]
            yield torch.stack(frames, 1)

    def ids(self, row: int) -> int:
        """Return the row itself: the query of frame 0."""
        return row

    def frame_weights(self, row: int) -> tuple[float, ...]:
        """Return nothing: all frames count alike."""
        del row
        return ()

    def frame_queries(self, row: int) -> tuple[int, ...]:
        """Return the linked query of each frame."""
        return tuple(int(order[row]) for order in self._orders)
