"""Frame by frame as they come: the tracker alone, with what is known so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import BuildError
from mlkit_core.tensors import to_device
from mlkit_dvis.assembly import resize_masks
from mlkit_dvis.features import clip_windows
from mlkit_dvis.pipeline.writing import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from mlkit_dvis.pipeline.loading import LoadedModel
    from mlkit_dvis.tracker import FrameRecord, TrackerState


@dataclass(frozen=True)
class LiveTrack:
    """An object as it stands now.

    Args:
        id: Of the track; a dead object that returns gets a new one.
        label: Most likely class so far.
        score: Its probability, from the mean of all logits so far.
        mask: `[H, W]` bool, original pixels; may be empty.
    """

    id: int
    label: int
    score: float
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LiveFrame:
    """One frame `[H, W, 3]` RGB and its objects, best first."""

    index: int
    frame: npt.NDArray[np.uint8]
    rows: tuple[LiveTrack, ...]


class _Means:
    """Mean logits of the tracks that live: the sums of dead ones are forgotten."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[torch.Tensor, int]] = {}

    def add(self, record: FrameRecord) -> torch.Tensor:
        """Take a frame's rows; return their means so far, `[n, K + 1]`."""
        ids, before = record.ids.tolist(), self._sums
        zero = record.logits.new_zeros(record.logits.shape[-1])
        self._sums = {}
        for track, logits in zip(ids, record.logits, strict=True):
            total, count = before.get(track, (zero, 0))
            self._sums[track] = (total + logits, count + 1)
        means = [total / count for total, count in self._sums.values()]
        return torch.stack(means) if means else record.logits


@torch.no_grad()
def track_live(
    loaded: LoadedModel, frames: Iterable[npt.NDArray[np.uint8]], *, score: float = 0.0
) -> Iterator[LiveFrame]:
    """Yield every frame with its objects as soon as it has come; memory stays the same.

    Args:
        loaded: A model with a tracker; its refiner, which needs the whole video, does not run.
        frames: `[H, W, 3]` RGB, all of one size.
        score: Objects below it are left out, and their masks are not computed.

    Raises:
        BuildError: The model has no tracker.
    """
    tracking = loaded.parts.tracking
    if tracking is None:
        raise BuildError("this model has no tracker: it cannot follow a stream")
    state: TrackerState | None = None
    means = _Means()
    for index, frame in enumerate(frames):
        batch = loaded.data.batch_of([frame])  # pyright: ignore[reportAttributeAccessIssue]  # VideoClips has it
        batch = to_device(batch, loaded.device)
        window = clip_windows(loaded.parts.segment(batch))[0]
        state, records = tracking.tracker.step(state, window, "inference")
        height, width = batch.inputs[loaded.parts.model.reads[loaded.parts.frames]].shape[-2:]
        layout = Layout.of(batch.meta[0], (height, width))
        yield LiveFrame(index, frame, _rows(records[0], means.add(records[0]), layout, score))


def _rows(
    record: FrameRecord, logits: torch.Tensor, layout: Layout, score: float
) -> tuple[LiveTrack, ...]:
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    order = scores.argsort(descending=True)
    order = order[scores[order] >= score]
    if not len(order):
        return ()
    masks = resize_masks(record.masks[order][:, None], layout.padded, layout.image, layout.output)
    return tuple(
        LiveTrack(int(record.ids[row]), int(labels[row]), float(scores[row]), mask.cpu().numpy())
        for row, mask in zip(order.tolist(), masks[:, 0], strict=True)
    )
