"""What the segmenter, the tracker and the refiner hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError
from mlkit_core.types import Features

if TYPE_CHECKING:
    from torch import Tensor

# The segmenter's maps by level: `p2` holds the mask features, the others feed its decoder.
MASK_LEVEL = "p2"


@dataclass(frozen=True, kw_only=True)
class SegmenterFeatures(Features):
    """A Mask2Former's view of every frame; rows are frames, R = B * T.

    `tokens` `[R, Q, C]` are the query embeddings after the decoder's last norm, `maps["p2"]` the
    mask features `[R, Cm, h, w]` at stride 4, `maps["p3"]`, `["p4"]`, `["p5"]` the pixel decoder's
    coarser maps, `vector` the mean of the coarsest one.

    Args:
        logits: `[R, Q, K + 1]`; the last class is "no object".
        masks: `[R, Q, h, w]`, logits at stride 4.
        queries: `[R, Q, C]`, the learned query content: equal in every row (an expanded view).
        reid: `[R, Q, Cr]`, what tells instances apart; trains the segmenter, tracks read it never.
        aux_logits: `[R, L, Q, K + 1]`, predictions of the earlier layers, in training only.
        aux_masks: `[R, L, Q, h, w]`, theirs too.
    """

    logits: Tensor
    masks: Tensor
    queries: Tensor
    reid: Tensor | None = None
    aux_logits: Tensor | None = None
    aux_masks: Tensor | None = None


@dataclass(frozen=True)
class Window:
    """The segmenter's view of some successive frames of one video, as trackers take it (B = 1).

    Args:
        pred_embds: `[1, C, T, Q]`, after the decoder's last norm.
        mask_features: `[1, T, Cm, h, w]`.
        pred_logits: `[1, T, Q, K + 1]`.
        pred_masks: `[1, Q, T, h, w]`, logits.
        seg_query_feat: `[Q, C]`, the learned query content.
    """

    pred_embds: Tensor
    mask_features: Tensor
    pred_logits: Tensor
    pred_masks: Tensor
    seg_query_feat: Tensor

    @property
    def frames(self) -> int:
        """T, the number of frames."""
        return self.mask_features.shape[1]

    def part(self, start: int, stop: int) -> Window:
        """Return the frames from `start` up to `stop`."""
        return replace(
            self,
            pred_embds=self.pred_embds[:, :, start:stop],
            mask_features=self.mask_features[:, start:stop],
            pred_logits=self.pred_logits[:, start:stop],
            pred_masks=self.pred_masks[:, :, start:stop],
        )


def clip_windows(frames: Features) -> list[Window]:
    """Return one window for each clip, from the features of frames folded by `[B, T]`.

    Raises:
        BuildError: The features are no segmenter's, or have no clip and frame.
    """
    if not isinstance(frames, SegmenterFeatures) or frames.tokens is None or frames.valid is None:
        raise BuildError(f"expected a segmenter's features of clips, got {type(frames).__name__}")
    clips, length = frames.valid.shape
    windows: list[Window] = []
    for clip in range(clips):
        rows = slice(clip * length, (clip + 1) * length)
        windows.append(
            Window(
                pred_embds=frames.tokens[rows].permute(2, 0, 1)[None],
                mask_features=frames.maps[MASK_LEVEL][rows][None],
                pred_logits=frames.logits[rows][None],
                pred_masks=frames.masks[rows].transpose(0, 1)[None],
                seg_query_feat=frames.queries[rows.start],
            )
        )
    return windows
