"""What the tracker reads of a frame, and what its two branches start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_dvis.features import Window


@dataclass(frozen=True)
class FrameView:
    """The segmenter's view of one frame, as the tracker reads it.

    Args:
        embeds: `[Q, 1, C]`.
        features: `[Cm, P]`, the mask features of its P pixels.
        logits: `[Q, K + 1]`.
        masks: `[Q, P]` logits.
        size: h and w; P = h * w.
        query_feat: `[Q, C]`, the segmenter's learned query content.
    """

    embeds: Tensor
    features: Tensor
    logits: Tensor
    masks: Tensor
    size: tuple[int, int]
    query_feat: Tensor

    @classmethod
    def of(cls, window: Window, t: int) -> FrameView:
        """Return frame `t` of a window; contiguous, so that no result depends on the window."""
        features = window.mask_features[0, t]
        return cls(
            embeds=window.pred_embds[0, :, t].T.contiguous()[:, None],
            features=features.flatten(1).contiguous(),
            logits=window.pred_logits[0, t],
            masks=window.pred_masks[0, :, t].flatten(1).contiguous(),
            size=(features.shape[1], features.shape[2]),
            query_feat=window.seg_query_feat,
        )

    def masks_of(self, kernels: Tensor) -> Tensor:
        """Return mask logits `[..., P]` of kernels `[..., Cm + 1]`: weights, then a bias."""
        return kernels[..., :-1] @ self.features + kernels[..., -1:]


@dataclass(frozen=True)
class Decoded:
    """Rows of one frame before the first layer and after each, L + 1 tensors `[R, 1, C]`.

    Args:
        levels: Before the first layer, then after each.
        query_pos: `[R, 1, C]`, the rows' positions; None in a video's first frame.
        pos: `[Q, 1, C]`, positions of the frame's queries; None likewise.
    """

    levels: tuple[Tensor, ...]
    query_pos: Tensor | None = None
    pos: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """The rows after the last layer, `[R, C]`."""
        return self.levels[-1][:, 0]


def check_window(window: Window, num_queries: int, widths: tuple[int, int]) -> None:
    """Raise unless a window fits a tracker.

    Args:
        window: Of one video.
        num_queries: The tracker's anchors.
        widths: Its C and Cm.

    Raises:
        BuildError: More than one video at once, or sizes that differ from the tracker's.
    """
    batch, dim, frames, queries = window.pred_embds.shape
    if batch != 1:
        raise BuildError(f"tracker: takes one clip at a time, got {batch}")
    if queries != num_queries:
        raise BuildError(
            f"tracker: has {num_queries} anchor queries, but the segmenter has {queries} queries",
            hint="set the tracker's number of queries (num_new_ins) to the segmenter's",
        )
    got = (dim, window.mask_features.shape[2])
    if got != widths:
        raise BuildError(
            f"tracker: expected queries and mask features of widths {widths}, got {got}"
        )
    counts = (window.mask_features, 1), (window.pred_logits, 1), (window.pred_masks, 2)
    lengths = [values.shape[axis] for values, axis in counts]
    if any(length != frames for length in lengths):
        raise BuildError(
            f"tracker: frames of embeddings, features, logits and masks differ: {frames}, "
            + ", ".join(map(str, lengths))
        )


def check_numbers(dim: int, heads: int, counts: tuple[int, ...]) -> None:
    """Raise unless a tracker can have these numbers.

    Args:
        dim: C.
        heads: Of attention.
        counts: Layers, classes, anchors, kick-out frames, slots.

    Raises:
        BuildError: C does not divide by the heads, or a count is below 1.
    """
    if heads < 1 or dim % heads or min(counts) < 1:
        raise BuildError(
            f"tracker: hidden_dim {dim} must be a multiple of num_head {heads}; layers, classes, "
            f"anchors, kick-out frames and slots must be at least 1, got {counts}"
        )
