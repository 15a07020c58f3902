"""Tracks as wholes, put together from the records of frames."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.tracker.lifecycle import FrameRecord, TrackerState

_NOT_ROWS = ("frame", "died")  # fields of a record that have no row for each track


@dataclass(frozen=True)
class Track:
    """One object from its first frame on; n frames without a gap.

    Args:
        start: Index of its first frame.
        dead: Whether it ended before the last frame that was tracked.
        embeds: `[n, C]`, before the last norm.
        logits: `[n, K + 1]`; the last class is "no object".
        masks: `[n, h, w]` logits; of frames that it was not seen in too.
        appearance: `[n]` bool, whether it was seen.
        pos_embed: `[C]`, the fused position at the end.
        pos_embed_history: `[p, C]`, the fused position after each of the p frames that it was
            seen in.
        id: Counted up from 0 in order of birth.
    """

    start: int
    dead: bool
    embeds: Tensor
    logits: Tensor
    masks: Tensor
    appearance: Tensor
    pos_embed: Tensor
    pos_embed_history: Tensor
    id: int = 0


@dataclass(frozen=True)
class OpenTracks:
    """Where a video stands: what the next frame needs, and the tracks that have not ended.

    Args:
        state: Of bounded size.
        records: Of the frames so far, only rows of live tracks; grows while they live.
    """

    state: TrackerState | None = None
    records: tuple[FrameRecord, ...] = ()

    def add(
        self, state: TrackerState, records: Sequence[FrameRecord]
    ) -> tuple[OpenTracks, list[Track]]:
        """Return where the video stands after these frames, and the tracks that ended in them."""
        pending = (*self.records, *records)
        died = deaths(records)
        if not len(died):
            return OpenTracks(state, pending), []
        ended = [torch.isin(r.ids, died.to(r.ids.device)) for r in pending]
        finished = [_rows(record, rows) for record, rows in zip(pending, ended, strict=True)]
        rest = [_rows(record, ~rows) for record, rows in zip(pending, ended, strict=True)]
        left = tuple(record for record in rest if len(record.ids))
        return OpenTracks(state, left), group(finished, died)

    def tracks(self) -> list[Track]:
        """Return the tracks that have not ended, as far as they have come."""
        return group(self.records, torch.zeros(0, dtype=torch.int64))


def deaths(records: Sequence[FrameRecord]) -> Tensor:
    """Return the ids of the tracks that ended in these frames."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(r.died.cpu() for r in records)])


def _rows(record: FrameRecord, keep: Tensor) -> FrameRecord:
    """Return the record with some of its rows; the record itself where they are all kept."""
    if bool(keep.all()):
        return record
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in _NOT_ROWS}
    return replace(record, **{n: v if v is None else v[keep] for n, v in values.items()})


def group(records: Sequence[FrameRecord], died: Tensor) -> list[Track]:
    """Return the tracks that the frames' rows make up, in order of birth.

    Args:
        records: Of some frames, in order.
        died: Ids of the tracks that have ended.
    """
    records = [record for record in records if len(record.ids)]
    if not records:
        return []
    order = torch.cat([record.ids for record in records]).argsort(stable=True)
    rows = _SortedRows(records, order)
    ids, counts = rows.of("ids").unique_consecutive(return_counts=True)
    lengths: list[int] = counts.tolist()
    lasts = counts.cumsum(0) - 1
    sizes = torch.tensor([len(record.ids) for record in records])
    frames = torch.tensor([record.frame for record in records]).repeat_interleave(sizes)
    starts = frames[order.cpu()[(lasts - counts + 1).cpu()]].tolist()
    seen, positions = rows.of("appearance"), rows.of("positions")
    parts = [rows.of(name).split(lengths) for name in ("embeds", "logits", "masks")]
    history = _history(positions, seen, counts)
    dead: list[bool] = torch.isin(ids.cpu(), died.cpu()).tolist()
    columns = (starts, dead, *parts, seen.split(lengths), positions[lasts], history, ids.tolist())
    return [Track(*values) for values in zip(*columns, strict=True)]


def _history(positions: Tensor, seen: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """Return each track's positions in the frames that it was seen in."""
    tracks = len(counts)
    owner = torch.arange(tracks, device=counts.device).repeat_interleave(counts)
    return positions[seen].split(owner[seen].bincount(minlength=tracks).tolist())


class _SortedRows:
    """The rows of several records, a track's rows together and in order."""

    def __init__(self, records: Sequence[FrameRecord], order: Tensor) -> None:
        self._records = records
        self._places = order.argsort().split([len(record.ids) for record in records])

    def of(self, name: str) -> Tensor:
        """Return one field of all rows, written straight to its place: masks are large."""
        values: list[Tensor] = [getattr(record, name) for record in self._records]
        total = sum(len(value) for value in values)
        rows = values[0].new_empty(total, *values[0].shape[1:])
        for value, places in zip(values, self._places, strict=True):
            rows[places] = value
        return rows
