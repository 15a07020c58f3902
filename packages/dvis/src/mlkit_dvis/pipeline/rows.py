"""The tracker's rows of a whole video: sums in memory, embeddings or masks in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mlkit_dvis.pipeline.spill import FrameFile, Spill
    from mlkit_dvis.tracker import FrameRecord

_READ = 5  # frames of masks in memory at once
_OUTSIDE = -1e4  # mask logit where a track does not exist


class TrackRows:
    """Everything that the tracker said of its rows, by track id.

    Args:
        spill: Where rows lie.
        masks: Keep mask logits (tracks are the result) instead of embeddings (a refiner follows).
        queries: Keep which query of the segmenter each row attends to most.
    """

    def __init__(self, spill: Spill, *, masks: bool, queries: bool) -> None:
        self._file: FrameFile = spill.file("row_masks" if masks else "row_embeds")
        self._keeps_masks, self._keeps_queries = masks, queries
        self._ids: list[Tensor] = []
        self._queries: list[Tensor] = []
        self._sums: Tensor | None = None  # [ids, K + 1]
        self._positions: Tensor | None = None  # [ids, C], the last fused position
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._starts = torch.zeros(0, dtype=torch.int64)

    def add(self, record: FrameRecord) -> None:
        """Take one frame's rows."""
        ids = record.ids.cpu()
        self._grow(int(ids.max()) + 1 if len(ids) else 0, record)
        if self._sums is not None and self._positions is not None and len(ids):
            self._sums.index_add_(0, record.ids, record.logits)
            self._positions[record.ids] = record.positions
            new = ids[self._counts[ids] == 0]
            self._starts[new] = len(self._ids)
            self._counts[ids] += 1
        self._ids.append(ids)
        self._file.append(record.masks if self._keeps_masks else record.embeds)
        if self._keeps_queries and record.attention is not None:
            self._queries.append(record.attention.argmax(-1).cpu())

    def _grow(self, count: int, record: FrameRecord) -> None:
        """Make room for ids up to `count`, doubling."""
        if self._sums is None or self._positions is None:
            self._sums = record.logits.new_zeros(0, record.logits.shape[-1])
            self._positions = record.positions.new_zeros(0, record.positions.shape[-1])
        if count <= len(self._counts):
            return
        extra = max(count, 2 * len(self._counts), 64) - len(self._counts)
        self._sums = torch.cat([self._sums, self._sums.new_zeros(extra, self._sums.shape[1])])
        room = self._positions.new_zeros(extra, self._positions.shape[1])
        self._positions = torch.cat([self._positions, room])
        self._counts = torch.cat([self._counts, self._counts.new_zeros(extra)])
        self._starts = torch.cat([self._starts, self._starts.new_zeros(extra)])

    def kept(self, noise_frames: int, frames: int) -> KeptTracks:
        """Return the tracks of at least `noise_frames` frames, and those at the video's end."""
        long = self._counts >= max(noise_frames, 1)
        ends = (self._counts > 0) & (self._starts + self._counts == frames)
        ids = torch.nonzero(long | ends)[:, 0]
        if self._sums is None:
            return KeptTracks(self, ids, torch.zeros(0, 1))
        device = self._sums.device
        chosen = ids.to(device)
        logits = self._sums[chosen] / self._counts.to(device)[chosen, None]
        return KeptTracks(self, ids, logits)

    def embeds(self, ids: Tensor, start: int, stop: int) -> Tensor:
        """Return embeddings of tracks over frames, `[t, n, C]`, on the CPU.

        Where a track does not exist, before or after, stands its last fused position.
        """
        if self._positions is None:
            raise RuntimeError("no frame was added")
        values = self._positions[ids.to(self._positions.device)].cpu()[None]
        values = values.repeat(stop - start, 1, 1)
        for t in range(start, stop):
            places, found = self._places(ids, t)
            values[t - start, places] = self._file.read(t)[found].to(values.dtype)
        return values

    def _places(self, ids: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        """Return where the tracks among `ids` stand there, and where in the frame's rows."""
        place = torch.full((len(self._counts),), -1)
        place[ids] = torch.arange(len(ids))
        places = place[self._ids[frame]]
        found = torch.nonzero(places >= 0)[:, 0]
        return places[found], found

    def masks(self, ids: Tensor, start: int, stop: int) -> Tensor:
        """Return mask logits of tracks over frames, `[n, t, h, w]`; -1e4 where one is not."""
        frames: list[Tensor] = []
        for t in range(start, stop):
            rows = self._file.read(t)
            masks = rows.new_full((len(ids), *rows.shape[1:]), _OUTSIDE)
            places, found = self._places(ids, t)
            masks[places] = rows[found]
            frames.append(masks)
        return torch.stack(frames, 1)

    def queries(self, track: int) -> tuple[int, ...]:
        """Return which query of the segmenter a track follows in each frame, -1 for none."""
        found: list[int] = []
        for ids, queries in zip(self._ids, self._queries, strict=False):
            place = torch.nonzero(ids == track)[:, 0]
            found.append(int(queries[place[0]]) if len(place) else -1)
        return tuple(found)

    def __len__(self) -> int:
        return len(self._ids)


@dataclass(frozen=True)
class KeptTracks:
    """The tracks that are results by themselves, or that a refiner takes.

    Args:
        rows: Of the whole video.
        track_ids: `[n]`, in order of birth.
        logits: `[n, K + 1]`, mean over all stored frames.
    """

    rows: TrackRows
    track_ids: Tensor
    logits: Tensor

    def masks(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield mask logits `[n, t, h, w]` of these tracks, window by window."""
        ids = self.track_ids[list(rows)]
        for start in range(0, len(self.rows), _READ):
            yield self.rows.masks(ids, start, min(start + _READ, len(self.rows)))

    def ids(self, row: int) -> int:
        """Return the track's id."""
        return int(self.track_ids[row])

    def frame_weights(self, row: int) -> tuple[float, ...]:
        """Return nothing: all frames count alike."""
        del row
        return ()

    def frame_queries(self, row: int) -> tuple[int, ...]:
        """Return the query that the track follows in each frame."""
        return self.rows.queries(self.ids(row))
