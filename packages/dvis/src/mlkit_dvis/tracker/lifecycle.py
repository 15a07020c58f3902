"""Births and deaths of tracks, frame by frame; what a tracker carries from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_dvis.tracker.positions import PositionMemory


@dataclass(frozen=True)
class Roster:
    """The tracks that live, in row order; three short integer vectors on the CPU.

    Args:
        ids: `[n]` int64, counted up from 0 in order of birth.
        starts: `[n]` int64, the frame of birth.
        invalid: `[n]` int64, frames in a row that the track was not seen in.
        next_id: Of the next newborn.
    """

    ids: Tensor
    starts: Tensor
    invalid: Tensor
    next_id: int = 0

    @classmethod
    def empty(cls) -> Roster:
        """Return the roster before the first frame."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, none)


@dataclass(frozen=True)
class Fates:
    """What one frame does to the rows.

    Args:
        rows: `[s]`, the candidate rows that live on: survivors in order, then newborn.
        survivors: How many of `rows` lived before.
        seen: `[s]` bool, which of them are seen in this frame.
        roster: After the frame.
        died: `[d]` ids.
    """

    rows: Tensor
    survivors: int
    seen: Tensor
    roster: Roster
    died: Tensor


def decide(valid: Tensor, roster: Roster, frame: int, kick_out: int) -> Fates:
    """Return which rows live on, die or are born.

    A row that is not valid and was no track is nothing; a track that is not valid `kick_out` times
    in a row dies. All tensors are on the CPU.

    Args:
        valid: `[R]` bool; the first rows are those of the roster.
        roster: Before the frame.
        frame: Index within the video.
        kick_out: At least 1.
    """
    tracks = len(roster.ids)
    counters = torch.where(valid[:tracks], 0, roster.invalid + 1)
    lives = counters < kick_out
    rows = torch.cat([lives, valid[tracks:]]).nonzero()[:, 0]
    survivors = int(lives.sum())
    births = len(rows) - survivors
    newborn = torch.arange(roster.next_id, roster.next_id + births)
    after = Roster(
        ids=torch.cat([roster.ids[lives], newborn]),
        starts=torch.cat([roster.starts[lives], torch.full((births,), frame)]),
        invalid=torch.cat([counters[lives], torch.zeros(births, dtype=torch.int64)]),
        next_id=roster.next_id + births,
    )
    return Fates(rows, survivors, valid[rows], after, roster.ids[~lives])


@dataclass(frozen=True)
class TrackerState:
    """What the next frame needs; its size depends on the live tracks, not on the frames so far.

    Args:
        frame: Index of the next frame within the video.
        roster: The live tracks.
        embeds: `[n, C]`, their last embeddings: the next frame's track queries.
        positions: Theirs; `positions.fused` is added to the track queries.
    """

    frame: int
    roster: Roster
    embeds: Tensor
    positions: PositionMemory

    @property
    def ids(self) -> Tensor:
        """Ids of the live tracks, `[n]`, on the CPU."""
        return self.roster.ids


@dataclass(frozen=True)
class FrameRecord:
    """What one frame says of the tracks that live in it: s rows, survivors first, then newborn.

    Args:
        frame: Index within the video.
        ids: `[s]` int64.
        starts: `[s]` int64, the frame in which each was born.
        embeds: `[s, C]`, before the last norm.
        logits: `[s, K + 1]`.
        masks: `[s, h, w]` logits; of a track that is not seen too.
        appearance: `[s]` bool, whether it is seen here.
        positions: `[s, C]`, fused, after this frame.
        died: `[d]` int64, ids of the tracks that ended before this frame.
        attention: `[s, Q]`, how much each row looks at each query of the frame in the last layer,
            mean over heads; None unless asked for.
    """

    frame: int
    ids: Tensor
    starts: Tensor
    embeds: Tensor
    logits: Tensor
    masks: Tensor
    appearance: Tensor
    positions: Tensor
    died: Tensor
    attention: Tensor | None = None
