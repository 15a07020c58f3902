"""How the tracker goes through a clip that it learns from.

Source: the training of Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV
2024, as published. Gradients flow from frame to frame through the rows that are handed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import InputError
from mlkit_core.tensors import to_float32
from mlkit_dvis.losses.points import random_points
from mlkit_dvis.matching import hungarian, hungarian_many, match_cost
from mlkit_dvis.tracker.positions import PositionMemory
from mlkit_dvis.tracker.slots import widest_scores
from mlkit_dvis.tracker.truth import FrameMatch, FrameOutput, TrackerTraining
from mlkit_dvis.tracker.views import FrameView

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_dvis.features import Window
    from mlkit_dvis.tracker.daq import DAQTracker
    from mlkit_dvis.tracker.truth import ClipTruth, TrainOptions

_FEWEST = 3  # matched tracks; only beyond this does one disappear in simulation


@dataclass(frozen=True)
class Carried:
    """The rows that one frame hands on to the next.

    Args:
        embeds: `[n, C]`.
        positions: Theirs.
        targets: `[n]`, the instance of each, -1 where none; on the CPU.
    """

    embeds: Tensor
    positions: PositionMemory
    targets: Tensor

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Matched rows and their instances, both on the CPU."""
        rows = (self.targets >= 0).nonzero()[:, 0]
        return rows, self.targets[rows]


@dataclass(frozen=True)
class Absence:
    """Instances that count as gone in a frame.

    Args:
        tracker: For the tracker's loss.
        slots: For the slot branch's loss.
        blocked: `[Q]` bool, the frame's queries that the slot branch must not look at; None: it
            may look at all.
    """

    tracker: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    blocked: Tensor | None = None


def follow_clip(
    tracker: DAQTracker, window: Window, truth: ClipTruth, options: TrainOptions
) -> TrackerTraining:
    """Return what tracker and slot branch say of a clip, frame by frame.

    Args:
        tracker: The network and its thresholds.
        window: All frames.
        truth: The clip's instances.
        options: Stage, randomness, matching.

    Raises:
        InputError: The truth is of another number of frames.
    """
    if truth.present.shape[1] != window.frames:
        raise InputError(
            f"truth: masks of {truth.present.shape[1]} frames for a clip of {window.frames}"
        )
    matches = match_frames(window, truth, options)
    frames: list[FrameOutput] = []
    slots: list[FrameOutput] = []
    carried: Carried | None = None
    for t, match in enumerate(matches):
        view = FrameView.of(window, t)
        if carried is None:
            levels = tracker.decode_first(view).levels
            output = _say(tracker, view, levels, (match.rows, match.instances))
        else:
            absence = find_absent(carried.targets, match, options)
            slots.append(_slots(tracker, view, carried, absence))
            fused = carried.positions.fused
            levels = tracker.decode(view, carried.embeds, fused).levels
            said = _say(tracker, view, levels, carried.pairs, absence.tracker)
            output = add_newcomers(said, carried.targets, t, truth, options)
        frames.append(output)
        if t + 1 < len(matches):
            carried = _hand_on(tracker, view, levels[-1][:, 0], output, carried, options.stage)
    return TrackerTraining(tuple(frames), tuple(slots), tuple(matches))


def _say(
    tracker: DAQTracker,
    view: FrameView,
    levels: tuple[Tensor, ...],
    pairs: tuple[Tensor, Tensor],
    disappeared: tuple[int, ...] = (),
) -> FrameOutput:
    rows = torch.cat(levels, 1).transpose(0, 1)  # [L, R, C]
    return FrameOutput(
        tracker.classify(rows), tracker.kernels(rows), view.features, view.size, *pairs, disappeared
    )


def _slots(tracker: DAQTracker, view: FrameView, carried: Carried, absence: Absence) -> FrameOutput:
    blocked = absence.blocked
    blocked = None if blocked is None else blocked.to(view.features.device)
    levels = tracker.decode_slots(view, carried.embeds, carried.positions.fused, blocked)
    return _say(tracker, view, levels, carried.pairs, absence.slots)


def match_frames(window: Window, truth: ClipTruth, options: TrainOptions) -> list[FrameMatch]:
    """Return what the segmenter's queries stand for, frame by frame.

    Args:
        window: T frames.
        truth: The clip's instances.
        options: Points and weights of the cost, threshold of valid queries.
    """
    costs: list[Tensor] = []
    for t in range(window.frames):
        logits, masks = window.pred_logits[0, t], window.pred_masks[0, :, t]
        costs.append(_cost(logits, masks, truth, truth.visible(t), t, options))
    sure = (widest_scores(window.pred_logits[0]) > options.aux_threshold).cpu()
    costs = [cost.cpu() for cost in costs]
    found = zip(costs, hungarian_many(costs), strict=True)
    return [
        _frame_match(cost, pairs, truth.visible(t), sure[t])
        for t, (cost, pairs) in enumerate(found)
    ]


def _frame_match(
    cost: Tensor, pairs: tuple[Tensor, Tensor], visible: Tensor, sure: Tensor
) -> FrameMatch:
    rows, cols = _by_instance(pairs)
    valid = sure.clone()
    valid[rows] = True
    targets = torch.full((len(cost),), -1)
    if len(visible):
        targets = torch.where(valid, visible[cost.argmin(1)], -1)
        targets[rows] = visible[cols]
    return FrameMatch(rows, visible[cols], targets, valid)


def _by_instance(pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    rows, cols = pairs
    order = cols.argsort()
    return rows[order], cols[order]


@torch.no_grad()
def _cost(
    logits: Tensor,
    masks: Tensor,
    truth: ClipTruth,
    wanted: Tensor,
    t: int,
    options: TrainOptions,
) -> Tensor:
    """Return what it costs that a row stands for one of the wanted instances, `[R, V]`."""
    if not len(wanted):
        return logits.new_zeros(len(logits), 0, dtype=torch.float32)
    points = options.points
    if points is None:
        points = random_points(options.num_points, options.generator, masks.device, masks.dtype)
    wanted = wanted.to(truth.labels.device)
    labels, targets = truth.labels[wanted], truth.masks[wanted, t]
    with torch.autocast(masks.device.type, enabled=False):  # as losses do
        logits, masks, points = to_float32((logits, masks, points))
        return match_cost(logits, masks, labels, targets, points, weights=options.weights)


def add_newcomers(
    output: FrameOutput, targets: Tensor, t: int, truth: ClipTruth, options: TrainOptions
) -> FrameOutput:
    """Return the output with visible instances that no track has matched to the anchors.

    Args:
        output: Of frame `t`; its pairs are those of the tracks.
        targets: `[n]`, the tracks' instances; the rows after n are anchors.
        t: The frame.
        truth: The clip's instances.
        options: Points and weights of the cost.
    """
    visible = truth.visible(t)
    wanted = visible[~torch.isin(visible, targets)]
    tracks = len(targets)
    anchors = torch.arange(tracks, output.logits.shape[1])
    with torch.no_grad():
        masks = output.masks(-1, anchors)
    cost = _cost(output.logits[-1, tracks:], masks, truth, wanted, t, options)
    rows, cols = _by_instance(hungarian(cost.cpu()))
    return replace(
        output,
        rows=torch.cat([output.rows, rows + tracks]),
        instances=torch.cat([output.instances, wanted[cols]]),
    )


def find_absent(targets: Tensor, match: FrameMatch, options: TrainOptions) -> Absence:
    """Return which tracked instances are gone in a frame, by nature or by simulation.

    In stage 3, if more than three tracks are matched, one of them disappears: the slot branch must
    not look at the queries that stand for it. Where some instance is gone by nature too, both
    losses hear of the simulated one; otherwise only the slot branch's does. (As published, where
    both share one list unless it is empty.)

    Args:
        targets: `[n]`, the tracks' instances, -1 where none.
        match: Of the frame.
        options: Stage, pick and randomness.
    """
    tracked = targets[targets >= 0]
    natural: list[int] = tracked[~torch.isin(tracked, match.instances)].tolist()
    if options.stage != 3 or len(tracked) <= _FEWEST:
        return Absence(tuple(natural), tuple(natural))
    pick = options.pick
    if pick is None:
        pick = int(torch.randint(len(tracked), (1,), generator=options.generator))
    gone = int(tracked[pick])
    blocked = match.targets == gone
    both = (*natural, gone)
    # Attention to nothing is not a number: where all queries stand for it, none is blocked.
    hidden = blocked if bool(blocked.any()) and not bool(blocked.all()) else None
    return Absence(both if natural else (), both, hidden)


def _hand_on(
    tracker: DAQTracker,
    view: FrameView,
    last: Tensor,
    output: FrameOutput,
    carried: Carried | None,
    stage: int,
) -> Carried:
    scores = widest_scores(output.logits[-1].detach()).cpu()
    if stage == 2:
        chosen = better_half(scores, output.rows)
    else:
        chosen = (scores > tracker.training_select_threshold).nonzero()[:, 0]
    targets = torch.full((len(scores),), -1)
    targets[output.rows] = output.instances
    tracks = 0 if carried is None else len(carried.targets)
    old = chosen[chosen < tracks]
    embeds = last[chosen.to(last.device)]
    positions = PositionMemory.empty(len(chosen) - len(old), last)
    if carried is not None:
        positions = carried.positions.select(old.to(last.device)).joined(positions)
    with torch.no_grad():
        masks = output.masks(-1, chosen).flatten(1)
    seen = torch.ones(len(chosen), dtype=torch.bool, device=last.device)
    raw = tracker.place(masks, view.features)
    return Carried(embeds, positions.fuse(raw, seen), targets[chosen])


def better_half(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the rows `[n - n // 2]` of the higher scores, ascending.

    Args:
        scores: `[R]`.
        rows: `[n]`, those that are matched.
    """
    best = scores[rows].topk(len(rows) - len(rows) // 2).indices
    return rows[best].sort().values
