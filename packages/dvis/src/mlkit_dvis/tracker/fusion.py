"""The fusion `daq-tracker`: a segmenter's frames in, tracks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.scope import choose_on
from mlkit_core.types import FeatureSpec, TrackTarget
from mlkit_dvis.features import MASK_LEVEL, SegmenterFeatures, clip_windows
from mlkit_dvis.tracker.daq import DAQTracker
from mlkit_dvis.tracker.features import TrackFeatures, clip_truth
from mlkit_dvis.tracker.lifecycle import TrackerState
from mlkit_dvis.tracker.tracks import deaths, group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Features, Role, Step
    from mlkit_dvis.features import Window
    from mlkit_dvis.tracker.inference import Mode
    from mlkit_dvis.tracker.truth import TrackerTraining

LEAD = ("clip", "frame")


class TrackerFusion(nn.Module):
    """Follows instances through each clip; while it trains, gives what its loss needs instead.

    In the first `switch_at` iterations of a training stage it learns from the first `sub_clip`
    frames of a clip to find lost objects again (the publication's stage 2); then from whole clips,
    with simulated disappearance (stage 3).

    Args:
        inputs: Role to spec.
        num_classes: Of the data.
        on: Role of the segmenter; build passes the one written last.
        num_queries: Of the segmenter; the tracker has as many anchors.
        layers: Of the tracker, and of the slot branch.
        heads: Attention heads.
        feedforward: Width within the feed-forward layers.
        num_slots: Learned background slots.
        training_select_threshold: In stage 3, score above which a row is handed on.
        inference_select_threshold: Score above which a track counts as seen, or is born.
        aux_inference_select_threshold: Segmenter's score above which a query of the first frame
            begins a track.
        kick_out_frame_num: Frames in a row without being seen that end a track.
        keep_threshold: With `ovis_infer`, slot score above which a track may count as seen.
        ovis_infer: Whether the slot branch has a say about tracks in inference.
        eval_mode: What its say is: "offline" before a refiner, else "inference".
        switch_at: Iteration at which stage 2 becomes stage 3; 0: stage 3 from the start.
        sub_clip: Frames of a clip in stage 2.
        points: At which masks are compared in matching.

    Raises:
        BuildError: The role holds no segmenter's view of clips, or a number is out of range.
    """

    uses_target, target_type = True, TrackTarget
    uses_state = uses_step = True

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int,
        on: Role | None = None,
        *,
        num_queries: int = 100,
        layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        num_slots: int = 5,
        training_select_threshold: float = 0.1,
        inference_select_threshold: float = 0.1,
        aux_inference_select_threshold: float = 0.01,
        kick_out_frame_num: int = 8,
        keep_threshold: float = 0.01,
        ovis_infer: bool = False,
        eval_mode: Mode = "inference",
        switch_at: int = 0,
        sub_clip: int = 2,
        points: int = 12544,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        dim, mask_dim = _widths(self.on, inputs[self.on])
        if sub_clip < 2 or switch_at < 0 or points < 1:
            raise BuildError(
                f"sub_clip {sub_clip} must be at least 2, switch_at {switch_at} at least 0, "
                f"points {points} at least 1"
            )
        self.eval_mode: Mode = eval_mode
        self.points = points
        self.switch_at, self.sub_clip = switch_at, sub_clip
        self.tracker = DAQTracker(
            hidden_dim=dim,
            feedforward_dim=feedforward,
            num_head=heads,
            decoder_layer_num=layers,
            mask_dim=mask_dim,
            num_classes=num_classes,
            num_new_ins=num_queries,
            training_select_threshold=training_select_threshold,
            inference_select_threshold=inference_select_threshold,
            aux_inference_select_threshold=aux_inference_select_threshold,
            kick_out_frame_num=kick_out_frame_num,
            num_slots=num_slots,
            keep_threshold=keep_threshold,
            ovis_infer=ovis_infer,
        )
        self.spec = FeatureSpec(lead=inputs[self.on].lead, type=TrackFeatures)

    def forward(
        self,
        scope: Mapping[Role, Features],
        *,
        target: TrackTarget | None = None,
        state: object | None = None,
        step: Step | None = None,
    ) -> TrackFeatures:
        """Return the clips' tracks; in training mode what the clips teach.

        Args:
            scope: Holds the segmenter's role.
            target: Instances of the clips; needed in training mode, ignored otherwise.
            state: In eval mode, what the last window of the same videos left.
            step: Where training stands; needed in training mode.

        Raises:
            BuildError: Features or state do not fit.
            TrainingError: In training mode there is nothing to learn from.
        """
        frames = scope[self.on]
        windows = clip_windows(frames)
        if self.training:
            training = self._train(windows, target, step)
            return TrackFeatures(valid=frames.valid, training=training)
        before = _states(state, len(windows))
        found = [
            self.tracker.step(one, window, self.eval_mode)
            for one, window in zip(before, windows, strict=True)
        ]
        clips = tuple(tuple(group(records, deaths(records))) for _, records in found)
        return TrackFeatures(valid=frames.valid, clips=clips, state=tuple(s for s, _ in found))

    def _train(
        self, windows: Sequence[Window], target: TrackTarget | None, step: Step | None
    ) -> tuple[TrackerTraining, ...]:
        if target is None or step is None:
            missing = "step" if target is not None else "target of instances (TrackTarget)"
            raise TrainingError(
                f"the tracker is in training mode, but the batch brings no {missing}",
                hint="call eval() to track, or freeze the tracker",
            )
        given = (len(windows), windows[0].frames)
        if (target.masks.shape[0], target.masks.shape[2]) != given:
            raise TrainingError(
                f"{given[0]} clips of {given[1]} frames, but the target has masks "
                f"{tuple(target.masks.shape)}, expected [B, M, T, H, W]"
            )
        early = step.iteration < self.switch_at
        length = min(self.sub_clip, given[1]) if early else given[1]
        return tuple(
            self._train_clip(window.part(0, length), target, clip, step, early=early)
            for clip, window in enumerate(windows)
        )

    def _train_clip(
        self, window: Window, target: TrackTarget, clip: int, step: Step, *, early: bool
    ) -> TrackerTraining:
        truth = clip_truth(target, clip, window.frames)
        return self.tracker.train_clip(
            window,
            truth.masks,
            truth.labels,
            stage=2 if early else 3,
            generator=step.generator,
            num_points=self.points,
        )


def _widths(role: Role, spec: FeatureSpec) -> tuple[int, int]:
    """Return the widths of queries and of mask features."""
    if not issubclass(spec.type, SegmenterFeatures):
        raise BuildError(
            f"on: role {role!r} must hold a segmenter's queries and masks, as mask2former gives; "
            f"it gives {spec.type.__name__}"
        )
    if spec.token_dim is None or MASK_LEVEL not in spec.channels:
        raise BuildError(
            f"on: role {role!r} publishes no width of queries or of mask features "
            f"({MASK_LEVEL!r}); it has maps {list(spec.channels)}"
        )
    if spec.lead != LEAD:
        raise BuildError(
            f"on: role {role!r} must have lead ({', '.join(LEAD)}), got ({', '.join(spec.lead)})",
            hint="the tracker follows instances through clips: use data that supplies them",
        )
    return spec.token_dim, spec.channels[MASK_LEVEL]


def _states(state: object | None, clips: int) -> Sequence[TrackerState | None]:
    if state is None:
        return [None] * clips
    held = state if isinstance(state, tuple) else ()
    states = [one for one in held if isinstance(one, TrackerState)]
    if len(states) != clips:
        raise BuildError(f"state: expected that of {clips} clips, got that of {len(states)}")
    return states
