"""Offline results of a clip that fits into memory, step by step as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_dvis.assembly import Assembled, flattened_topk, refiner_rows, resize_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.features import Window
    from mlkit_dvis.refiner.temporal import RefinerOutput, TemporalRefiner
    from mlkit_dvis.tracker import Track


@dataclass(frozen=True)
class OfflineOutputs:
    """A clip, tracked and refined: what the refiner took and gave, and the m results.

    Args:
        rows: What the refiner took: tracks, then fillers.
        tracks: How many of the rows are tracks.
        refined: None where there was nothing to refine.
        scores: `[m]`.
        labels: `[m]`, class indices.
        index: `[m]`, each result's row.
        masks: `[m, T, H, W]` bool, of the original frames.
    """

    rows: Assembled
    tracks: int
    refined: RefinerOutput | None
    scores: Tensor
    labels: Tensor
    index: Tensor
    masks: Tensor


@torch.no_grad()
def offline_outputs(
    tracks: Sequence[Track],
    window: Window,
    refiner: TemporalRefiner,
    *,
    noise_frames: int,
    topk_tracks: int,
    num_rows: int,
    max_num: int,
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> OfflineOutputs:
    """Return the results of a clip that fits into memory; a single row or none gives no result.

    Args:
        tracks: Of the whole clip.
        window: All of its frames.
        refiner: In eval mode.
        noise_frames: As in `refiner_rows`, like the next two.
        topk_tracks: Tracks that are kept at most.
        num_rows: Of the refiner.
        max_num: Results at most.
        sizes: Padded, image and output size, as in `resize_masks`.
    """
    rows, count = refiner_rows(
        tracks, window, noise_frames=noise_frames, topk_tracks=topk_tracks, num_rows=num_rows
    )
    if len(rows) <= 1:
        none = torch.zeros(0, dtype=torch.int64, device=rows.logits.device)
        masks = torch.zeros(0, window.frames, *sizes[2], dtype=torch.bool, device=none.device)
        return OfflineOutputs(rows, count, None, none.to(rows.logits), none, none, masks)
    instances = rows.embeds.permute(2, 1, 0)[None]  # [1, C, T, N]
    refined = refiner(instances, window.pred_embds, window.mask_features)
    scores, labels, index = flattened_topk(refined.pred_logits[0, 0], max_num)
    masks = resize_masks(refined.pred_masks[0][index], *sizes)
    return OfflineOutputs(rows, count, refined, scores, labels, index, masks)
