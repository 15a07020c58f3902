"""The tracker: objects are queries that go from frame to frame, anchors find the newcomers.

Source: Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV 2024.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError, InputError
from mlkit_dvis.blocks import MLP, CrossAttentionLayer, FFNLayer, SelfAttentionLayer
from mlkit_dvis.features import Window
from mlkit_dvis.tracker.inference import follow
from mlkit_dvis.tracker.positions import masked_means
from mlkit_dvis.tracker.slots import SlotCrossAttentionLayer, choose_slots
from mlkit_dvis.tracker.tracks import OpenTracks, Track
from mlkit_dvis.tracker.training import follow_clip
from mlkit_dvis.tracker.truth import ClipTruth, TrackerTraining, TrainOptions
from mlkit_dvis.tracker.views import Decoded, FrameView, check_numbers, check_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlkit_dvis.tracker.inference import Mode
    from mlkit_dvis.tracker.lifecycle import FrameRecord, TrackerState


class DAQTracker(nn.Module):
    """Follows objects through a video, frame by frame; one clip at a time.

    A track is a row of queries that is handed on; `num_new_ins` anchor queries (one shared learned
    content, placed where the segmenter's queries of the frame are) find newcomers. A track that is
    not seen for `kick_out_frame_num` frames in a row ends, for good: an object that returns is a
    newcomer. Keywords and parameter names are the published ones.

    Args:
        hidden_dim: C, width of queries.
        feedforward_dim: Width within the feed-forward layers.
        num_head: Attention heads; divides `hidden_dim`.
        decoder_layer_num: Layers of the tracker, and of the slot branch.
        mask_dim: Cm, channels of the mask features.
        num_classes: K, without "no object".
        num_new_ins: Anchor queries: as many as the segmenter has queries.
        training_select_threshold: In training's stage 3, score above which a row is handed on.
        inference_select_threshold: Score above which a row counts as seen.
        aux_inference_select_threshold: Segmenter's score above which a query of the first frame
            begins a track.
        kick_out_frame_num: Frames in a row without being seen that end a track.
        num_slots: Learned background slots.
        keep_threshold: With `ovis_infer`, slot score above which a track may count as seen.
        ovis_infer: Whether the slot branch has a say about tracks in inference.

    Raises:
        BuildError: A number is out of range.
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 256,
        feedforward_dim: int = 2048,
        num_head: int = 8,
        decoder_layer_num: int = 6,
        mask_dim: int = 256,
        num_classes: int = 40,
        num_new_ins: int = 100,
        training_select_threshold: float = 0.1,
        inference_select_threshold: float = 0.1,
        aux_inference_select_threshold: float = 0.01,
        kick_out_frame_num: int = 8,
        num_slots: int = 5,
        keep_threshold: float = 0.01,
        ovis_infer: bool = False,
    ) -> None:
        super().__init__()
        counts = (decoder_layer_num, num_classes, num_new_ins, kick_out_frame_num, num_slots)
        check_numbers(hidden_dim, num_head, counts)
        self.training_select_threshold = training_select_threshold
        self.inference_select_threshold = inference_select_threshold
        self.aux_inference_select_threshold = aux_inference_select_threshold
        self.kick_out_frame_num, self.keep_threshold = kick_out_frame_num, keep_threshold
        self.num_new_ins, self.ovis_infer = num_new_ins, ovis_infer
        self.widths = hidden_dim, mask_dim
        stack = partial(_stack, decoder_layer_num, hidden_dim)
        self.transformer_self_attention_layers = stack(SelfAttentionLayer, num_head)
        self.transformer_cross_attention_layers = stack(CrossAttentionLayer, num_head)
        self.transformer_ffn_layers = stack(FFNLayer, feedforward_dim)
        self.slot_cross_attention_layers = stack(SlotCrossAttentionLayer, num_head)
        self.slot_ffn_layers = stack(FFNLayer, feedforward_dim)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.pos_embed = MLP(mask_dim, hidden_dim, hidden_dim, 3)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)
        self.mask_feature_proj = nn.Conv2d(mask_dim, mask_dim, 1)
        self.new_ins_embeds = nn.Embedding(1, hidden_dim)
        self.bg_slots = nn.Embedding(num_slots, hidden_dim)

    def classify(self, x: Tensor) -> Tensor:
        """Return class logits `[..., K + 1]` of rows `[..., C]`."""
        return self.class_embed(self.decoder_norm(x))

    def kernels(self, x: Tensor) -> Tensor:
        """Return what makes the masks of rows `[..., C]`: a weight per channel, and a bias.

        `[..., Cm + 1]`. The projection of the mask features is folded in: it is linear, and rows
        are far fewer than pixels.
        """
        queries = self.mask_embed(self.decoder_norm(x))
        weight = self.mask_feature_proj.weight.flatten(1)  # [Cm, Cm]
        bias = cast("Tensor", self.mask_feature_proj.bias)
        return queries @ torch.cat([weight, bias[:, None]], 1)

    def place(self, masks: Tensor, features: Tensor) -> Tensor:
        """Return the raw position `[N, C]` of masks `[N, P]` over features `[Cm, P]`."""
        return self.pos_embed(masked_means(masks, features))

    def decode_first(self, frame: FrameView) -> Decoded:
        """Return the rows of a video's first frame: its own embeddings, without positions."""
        return Decoded(self._layers(frame.embeds, frame.embeds, None, None))

    def decode(self, frame: FrameView, embeds: Tensor, fused: Tensor) -> Decoded:
        """Return the rows of a later frame: tracks, then anchors.

        Args:
            frame: Where they look.
            embeds: `[n, C]`, the track queries.
            fused: `[n, C]`, their positions.
        """
        pos = self.place(frame.masks, frame.features)[:, None]  # [Q, 1, C]
        content = self.new_ins_embeds.weight.expand(len(pos), -1)
        x = torch.cat([embeds, content])[:, None]
        query_pos = torch.cat([fused[:, None], pos])
        return Decoded(self._layers(x, frame.embeds, query_pos, pos), query_pos, pos)

    def _layers(
        self, x: Tensor, memory: Tensor, query_pos: Tensor | None, pos: Tensor | None
    ) -> tuple[Tensor, ...]:
        levels = [x]
        for cross, own, ffn in zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        ):
            levels.append(ffn(own(cross(levels[-1], memory, query_pos, pos))))
        return tuple(levels)

    def attention(self, frame: FrameView, rows: Decoded) -> Tensor:
        """Return how the last layer's rows look at the frame's queries, mean of heads, `[R, Q]`."""
        last = cast("CrossAttentionLayer", self.transformer_cross_attention_layers[-1])
        return last.weights(rows.levels[-2], frame.embeds, rows.query_pos, rows.pos)[0]

    def decode_slots(
        self, frame: FrameView, embeds: Tensor, fused: Tensor, blocked: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the slots after each layer, `[n + slots, 1, C]`: tracks, then background.

        Args:
            frame: Where they look.
            embeds: `[n, C]`, the track queries.
            fused: `[n, C]`, their positions.
            blocked: `[Q]` bool, the frame's queries that none may look at.
        """
        background = self.bg_slots.weight
        rows = torch.cat([embeds, background])
        places = torch.cat([fused, background])[:, None]
        slots = frame.query_feat[choose_slots(rows, frame.query_feat)][:, None]
        levels: list[Tensor] = []
        layers = zip(self.slot_cross_attention_layers, self.slot_ffn_layers, strict=True)
        for cross, ffn in layers:
            slots = ffn(cross(slots, frame.embeds, rows[:, None], places, blocked))
            levels.append(slots)
        return tuple(levels)

    def step(
        self,
        state: TrackerState | None,
        window: Window,
        mode: Mode = "inference",
        *,
        attention: bool = False,
    ) -> tuple[TrackerState, list[FrameRecord]]:
        """Return the state after a window, and what each of its frames says of the live tracks.

        Memory stays the same however long the video is; results do not depend on how it is cut.

        Args:
            state: What the last window left; None before the first frame of a video.
            window: The next frames.
            mode: With `ovis_infer`, "inference" wants the slot branch to agree that a track is
                seen, "offline" (before a refiner) takes the mean of both branches' logits.
            attention: Whether records hold how rows look at the frame's queries.

        Raises:
            BuildError: The window does not fit the tracker.
        """
        check_window(window, self.num_new_ins, self.widths)
        records: list[FrameRecord] = []
        for t in range(window.frames):
            state, record = follow(self, state, FrameView.of(window, t), mode, attention=attention)
            records.append(record)
        if state is None:
            raise BuildError("tracker: the window has no frames")
        return state, records

    def advance(
        self, tracks: OpenTracks | None, window: Window, mode: Mode = "inference"
    ) -> tuple[OpenTracks, list[Track]]:
        """Return where the video stands after a window, and the tracks that ended in it.

        Args:
            tracks: What the last window left; None before the first frame of a video.
            window: The next frames.
            mode: As in `step`.
        """
        before = tracks or OpenTracks()
        state, records = self.step(before.state, window, mode)
        return before.add(state, records)

    def track(
        self,
        pred_embds: Tensor,
        mask_features: Tensor,
        pred_logits: Tensor,
        pred_masks: Tensor,
        seg_query_feat: Tensor,
        *,
        window_size: int = 5,
        mode: Mode = "inference",
    ) -> list[Track]:
        """Return all tracks of a video, in order of birth.

        Args:
            pred_embds: `[1, C, T, Q]`.
            mask_features: `[1, T, Cm, h, w]`.
            pred_logits: `[1, T, Q, K + 1]`.
            pred_masks: `[1, Q, T, h, w]`, logits.
            seg_query_feat: `[Q, C]`.
            window_size: Frames at once; changes no result.
            mode: As in `step`.
        """
        if window_size < 1:
            raise InputError(f"window_size: must be at least 1, got {window_size}")
        window = Window(pred_embds, mask_features, pred_logits, pred_masks, seg_query_feat)
        tracks: OpenTracks | None = None
        finished: list[Track] = []
        for start in range(0, window.frames, window_size):
            stop = min(start + window_size, window.frames)
            tracks, ended = self.advance(tracks, window.part(start, stop), mode)
            finished += ended
        finished += tracks.tracks() if tracks is not None else []
        return sorted(finished, key=lambda track: track.id)

    def train_clip(
        self,
        window: Window,
        masks: Tensor,
        labels: Tensor,
        *,
        stage: Literal[2, 3],
        generator: torch.Generator,
        num_points: int = 12544,
        matcher_points: Tensor | None = None,
        disappear_pick: int | None = None,
        aux_select_threshold: float | None = None,
    ) -> TrackerTraining:
        """Return what tracker and slot branch say of a clip that they learn from.

        Args:
            window: All frames of the clip.
            masks: `[M, T, H, W]`, 0 or 1; empty where an instance is not visible.
            labels: `[M]`, class index.
            stage: 2 or 3, as in `TrainOptions`.
            generator: On the CPU; gives all randomness.
            num_points: At which masks are compared in matching.
            matcher_points: `[1, P, 2]`, x, y, each 0..1, in the place of random ones.
            disappear_pick: Which of the matched tracks disappears, instead of a random one.
            aux_select_threshold: Segmenter's score above which an unmatched query stands for its
                cheapest instance; None: that of inference.

        Raises:
            BuildError: The window does not fit the tracker.
            InputError: Masks, labels or stage are not as said.
        """
        check_window(window, self.num_new_ins, self.widths)
        given, default = aux_select_threshold, self.aux_inference_select_threshold
        threshold = default if given is None else given
        options = TrainOptions(
            stage, generator, num_points, matcher_points, disappear_pick, threshold
        )
        return follow_clip(self, window, ClipTruth.of(masks, labels), options)


def _stack(count: int, dim: int, layer: Callable[[int, int], nn.Module], n: int) -> nn.ModuleList:
    return nn.ModuleList(layer(dim, n) for _ in range(count))
