"""The fusion `temporal-refiner`: assembles each clip's tracks and refines them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_by, choose_on
from mlkit_core.types import FeatureSpec
from mlkit_dvis.assembly import refiner_rows
from mlkit_dvis.features import MASK_LEVEL, SegmenterFeatures, clip_windows
from mlkit_dvis.refiner.features import RefinedFeatures, joined_clips
from mlkit_dvis.refiner.temporal import TemporalRefiner
from mlkit_dvis.tracker.features import TrackFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Features, Role
    from mlkit_dvis.assembly import Assembled
    from mlkit_dvis.features import Window
    from mlkit_dvis.refiner.temporal import RefinerOutput, TimeEncoding
    from mlkit_dvis.tracker import Track


class RefinerFusion(nn.Module):
    """Refines each clip's tracks over all of its frames.

    Args:
        inputs: Role to spec.
        on: Role of the tracks; build passes the one written last.
        by: Role of the segmenter; None: the one that there is.
        num_classes: Of the data.
        layers: Of the refiner.
        heads: Attention heads.
        feedforward: Width within the feed-forward layers.
        windows: Frames whose masks are made at once in evaluation.
        use_local_attn: Convolutions over time.
        time_encoding: Whether attention over time sees the frames' order.
        amplify_change: Whether small changes of a row over time are made large.
        noise_frames: Shorter tracks are dropped, unless they reach the last frame.
        topk_tracks: Tracks that are kept at most.
        num_rows: Rows in all, filled up by linked queries; never more than the segmenter has.

    Raises:
        BuildError: The roles are not a tracker's and a segmenter's.
    """

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int,
        on: Role | None = None,
        by: Role | None = None,
        *,
        layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        windows: int = 3,
        use_local_attn: bool = False,
        time_encoding: TimeEncoding = "none",
        amplify_change: bool = False,
        noise_frames: int = 5,
        topk_tracks: int = 40,
        num_rows: int = 100,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        if not issubclass(inputs[self.on].type, TrackFeatures):
            have = ", ".join(f"{role}: {spec.type.__name__}" for role, spec in inputs.items())
            raise BuildError(f"on: role {self.on!r} must hold tracks; there are {have}")
        self.by = choose_by(inputs, self.on, by, _is_segmenter, "a segmenter's queries and masks")
        frames = inputs[self.by]
        if frames.token_dim is None or MASK_LEVEL not in frames.channels:
            raise BuildError(
                f"by: role {self.by!r} publishes no width of queries and mask features"
            )
        self.noise_frames, self.topk_tracks = noise_frames, topk_tracks
        self.num_rows = num_rows
        self.refiner = TemporalRefiner(
            hidden_channel=frames.token_dim,
            feedforward_channel=feedforward,
            num_head=heads,
            decoder_layer_num=layers,
            mask_dim=frames.channels[MASK_LEVEL],
            class_num=num_classes,
            windows=windows,
            use_local_attn=use_local_attn,
            time_encoding=time_encoding,
            amplify_change=amplify_change,
        )
        self.spec = FeatureSpec(lead=frames.lead, type=RefinedFeatures)

    def forward(self, scope: Mapping[Role, Features]) -> RefinedFeatures:
        """Return the refined rows of each clip; no gradient reaches tracker or segmenter.

        Raises:
            BuildError: The tracker is training, so there are no tracks.
            InputError: A track is the later part of a longer one.
        """
        tracks, frames = scope[self.on], scope[self.by]
        if not isinstance(tracks, TrackFeatures) or tracks.training is not None:
            raise BuildError(
                "the tracker must be frozen while the refiner runs: there are no tracks yet",
                hint=f"add `fusions.{self.on}` to freeze",
            )
        with torch.no_grad():
            windows = clip_windows(frames)
            rows = [self._rows(t, w) for t, w in zip(tracks.clips, windows, strict=True)]
        if len({len(found) for found in rows}) == 1:
            return self._refined(windows, rows, frames.valid)
        alone = [self._refined([w], [r], None) for w, r in zip(windows, rows, strict=True)]
        return joined_clips(alone, frames.valid)

    def _rows(self, tracks: Sequence[Track], window: Window) -> Assembled:
        rows, _ = refiner_rows(
            tracks,
            window,
            noise_frames=self.noise_frames,
            topk_tracks=self.topk_tracks,
            num_rows=self.num_rows,
        )
        return rows

    def _refined(
        self, windows: Sequence[Window], rows: Sequence[Assembled], valid: Tensor | None
    ) -> RefinedFeatures:
        """Refine clips of equal numbers of rows together."""
        embeds = torch.stack([found.embeds for found in rows])  # [B, N, T, C]
        output = self.refiner(
            embeds.permute(0, 3, 2, 1),
            torch.cat([window.pred_embds for window in windows]),
            torch.cat([window.mask_features for window in windows]),
        )
        aux_logits, aux_masks = _earlier(output)
        weights = output.frame_weights
        return RefinedFeatures(
            valid=valid,
            logits=output.pred_logits[:, 0],
            masks=output.pred_masks,
            online_logits=torch.stack([found.logits for found in rows]),
            online_masks=torch.stack([found.masks for found in rows]),
            embeds=output.pred_embds.permute(0, 3, 2, 1),
            frame_weights=weights if weights.ndim == 3 else weights[None],
            aux_logits=aux_logits,
            aux_masks=aux_masks,
        )


def _earlier(output: RefinerOutput) -> tuple[Tensor | None, Tensor | None]:
    if not output.aux:
        return None, None
    logits, masks = zip(*output.aux, strict=True)
    return torch.stack([values[:, 0] for values in logits], 1), torch.stack(masks, 1)


def _is_segmenter(spec: FeatureSpec) -> bool:
    return issubclass(spec.type, SegmenterFeatures)
