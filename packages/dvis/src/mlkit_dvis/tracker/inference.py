"""One frame of inference: which rows are seen, which are born, which die."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from mlkit_core.errors import InputError
from mlkit_dvis.tracker.lifecycle import FrameRecord, Roster, TrackerState, decide
from mlkit_dvis.tracker.positions import PositionMemory
from mlkit_dvis.tracker.slots import widest_scores

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_dvis.tracker.daq import DAQTracker
    from mlkit_dvis.tracker.lifecycle import Fates
    from mlkit_dvis.tracker.views import Decoded, FrameView

Mode = Literal["inference", "offline"]


@dataclass(frozen=True)
class _Candidates:
    """The rows of a frame: tracks, then what may be born.

    Args:
        decoded: Their embeddings.
        logits: `[R, K + 1]`.
        valid: `[R]` bool, which are seen.
    """

    decoded: Decoded
    logits: Tensor
    valid: Tensor


@torch.no_grad()
def follow(
    tracker: DAQTracker,
    state: TrackerState | None,
    frame: FrameView,
    mode: Mode,
    *,
    attention: bool = False,
) -> tuple[TrackerState, FrameRecord]:
    """Return the state after a frame, and what the frame says of the live tracks.

    The device is waited for once (with `ovis_infer` twice): for the rows' validity.

    Args:
        tracker: The network and its thresholds.
        state: Before the frame; None for the first of a video.
        frame: The segmenter's view of it.
        mode: What the slot branch has to say, as in `DAQTracker.step`.
        attention: Whether the record holds it.

    Raises:
        InputError: The mode is unknown.
    """
    if mode not in ("inference", "offline"):
        raise InputError(f"mode: must be 'inference' or 'offline', got {mode!r}")
    index = 0 if state is None else state.frame
    roster = Roster.empty() if state is None else state.roster
    found = _first(tracker, frame) if state is None else _later(tracker, state, frame, mode)
    fates = decide(found.valid.cpu(), roster, index, tracker.kick_out_frame_num)
    rows = fates.rows.to(found.valid.device)
    embeds = found.decoded.last[rows]
    masks = frame.masks_of(tracker.kernels(embeds))  # [s, P]
    seen = fates.seen.to(rows.device)
    place = tracker.place(masks, frame.features)
    positions = _remembered(state, fates, rows, embeds).fuse(place, seen)
    record = FrameRecord(
        frame=index,
        ids=fates.roster.ids.to(rows.device),
        starts=fates.roster.starts.to(rows.device),
        embeds=embeds,
        logits=found.logits[rows],
        masks=masks.unflatten(1, frame.size),
        appearance=seen,
        positions=positions.fused,
        died=fates.died.to(rows.device),
        attention=tracker.attention(frame, found.decoded)[rows] if attention else None,
    )
    return TrackerState(index + 1, fates.roster, embeds, positions), record


def _remembered(
    state: TrackerState | None, fates: Fates, rows: Tensor, like: Tensor
) -> PositionMemory:
    """Return the survivors' memory, and an empty one for each newborn."""
    newborn = PositionMemory.empty(len(rows) - fates.survivors, like)
    if state is None:
        return newborn
    return state.positions.select(rows[: fates.survivors]).joined(newborn)


def _first(tracker: DAQTracker, frame: FrameView) -> _Candidates:
    """A video's first frame: the segmenter's own score decides what begins."""
    decoded = tracker.decode_first(frame)
    valid = widest_scores(frame.logits) > tracker.aux_inference_select_threshold
    return _Candidates(decoded, tracker.classify(decoded.last), valid)


def _later(tracker: DAQTracker, state: TrackerState, frame: FrameView, mode: Mode) -> _Candidates:
    embeds, fused = state.embeds, state.positions.fused
    decoded = tracker.decode(frame, embeds, fused)
    logits = tracker.classify(decoded.last)
    threshold, tracks = tracker.inference_select_threshold, len(embeds)
    if not tracker.ovis_infer or not tracks:
        return _Candidates(decoded, logits, widest_scores(logits) > threshold)
    slots = tracker.classify(tracker.decode_slots(frame, embeds, fused)[-1][:tracks, 0])
    valid = agreed(logits, slots, mode, threshold=threshold, keep=tracker.keep_threshold)
    return _Candidates(decoded, logits, valid)


def agreed(logits: Tensor, slots: Tensor, mode: Mode, *, threshold: float, keep: float) -> Tensor:
    """Return which rows count as seen, `[R]` bool, where the slot branch has a say about tracks.

    Args:
        logits: `[R, K + 1]`, the tracker's: of n tracks, then of anchors, which it decides alone.
        slots: `[n, K + 1]`, the slot branch's.
        mode: "inference" asks both branches' scores, "offline" that of their mean logits.
        threshold: What the tracker's score, or that of the mean, must exceed.
        keep: What the slot branch's score must exceed.
    """
    tracks = logits[: len(slots)]
    if mode == "inference":
        seen = (widest_scores(tracks) > threshold) & (widest_scores(slots) > keep)
    else:
        seen = widest_scores(0.5 * slots + 0.5 * tracks) > threshold
    return torch.cat([seen, widest_scores(logits[len(slots) :]) > threshold])
