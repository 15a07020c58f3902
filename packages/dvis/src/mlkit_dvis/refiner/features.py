"""What the refiner writes into the scope."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from mlkit_core.types import Features
from mlkit_dvis.assembly import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RefinedFeatures(Features):
    """Rows of B clips: tracks first, then what fills them up to N; `valid` is the frames' own.

    Args:
        logits: `[B, N, K + 1]`.
        masks: `[B, N, T, h, w]`, logits.
        online_logits: `[B, N, K + 1]`, the tracker's (of fillers the segmenter's).
        online_masks: `[B, N, T, h, w]`, theirs.
        embeds: `[B, N, T, C]`, after the last layer.
        frame_weights: `[B, T, N]`, how much each frame counted for the class.
        aux_logits: `[B, L - 1, N, K + 1]`, of the earlier layers, in training only.
        aux_masks: `[B, L - 1, N, T, h, w]`, theirs too.
    """

    logits: Tensor
    masks: Tensor
    online_logits: Tensor
    online_masks: Tensor
    embeds: Tensor
    frame_weights: Tensor
    aux_logits: Tensor | None = None
    aux_masks: Tensor | None = None


_ROW_AXES = {"frame_weights": 2, "aux_logits": 2, "aux_masks": 2}  # else 1


def joined_clips(clips: Sequence[RefinedFeatures], valid: Tensor | None) -> RefinedFeatures:
    """Return the clips as one batch; rows that pad a clip are sure to be no object.

    Args:
        clips: Of one length in frames, with any numbers of rows.
        valid: `[B, T]` bool, of all of them.
    """
    rows = max(clip.logits.shape[1] for clip in clips)
    added = {f.name for f in fields(RefinedFeatures)} - {f.name for f in fields(Features)}
    values: dict[str, Tensor | None] = {}
    for name in added:
        parts: list[Tensor | None] = [getattr(clip, name) for clip in clips]
        found = [_padded(name, part, rows) for part in parts if part is not None]
        values[name] = torch.cat(found) if found else None
    return RefinedFeatures(valid=valid, **values)  # pyright: ignore[reportArgumentType]  # as given


def _padded(name: str, values: Tensor, rows: int) -> Tensor:
    """Return one field of a clip with `rows` rows."""
    axis = _ROW_AXES.get(name, 1)
    missing = rows - values.shape[axis]
    if not missing:
        return values
    shape = [*values.shape[:axis], missing, *values.shape[axis + 1 :]]
    pad = values.new_full(shape, OUTSIDE if name.endswith(("logits", "masks")) else 0.0)
    if name.endswith("logits"):
        pad[..., -1] = 0.0
    return torch.cat([values, pad], axis)
