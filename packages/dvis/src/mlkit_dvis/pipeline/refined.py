"""The refiner over a whole video: from embeddings in files to classes and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlkit_dvis.assembly import top_tracks
from mlkit_dvis.refiner.chunks import refined_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from mlkit_dvis.pipeline.linked import LinkedQueries
    from mlkit_dvis.pipeline.rows import TrackRows
    from mlkit_dvis.pipeline.spill import FrameFile, Spill
    from mlkit_dvis.refiner import TemporalRefiner
    from mlkit_dvis.refiner.fusion import RefinerFusion


@dataclass(frozen=True)
class Chunks:
    """How a video that is too long for one pass is cut: frames at once, frames shared."""

    limit: int
    overlap: int


@dataclass(frozen=True)
class Candidates:
    """What the refiner takes: the best tracks, filled up with linked queries.

    Args:
        tracks: Of the whole video.
        linked: Of the whole video.
        ids: `[n]`, tracks.
        fill: `[m]`, linked rows.
    """

    tracks: TrackRows
    linked: LinkedQueries
    ids: Tensor
    fill: Tensor

    def __len__(self) -> int:
        return len(self.ids) + len(self.fill)

    def embeds(self, start: int, stop: int) -> Tensor:
        """Return `[t, N, C]` on the CPU, tracks first."""
        tracks = self.tracks.embeds(self.ids, start, stop)
        filled = self.linked.linked_embeds(self.fill, start, stop)
        return torch.cat([tracks, filled.to(tracks.dtype)], 1)


class RefinedRows:
    """The refiner's rows: classes of the whole video, masks frame by frame.

    Args:
        refiner: In eval mode.
        candidates: Its rows.
        decoded: Every frame's embeddings after the last norm, `[N, C]`.
        activations: `[T, N]`, before the softmax over the video's frames.
        features: Mask features `[t, Cm, h, w]`, window by window in order.
    """

    def __init__(
        self,
        refiner: TemporalRefiner,
        candidates: Candidates,
        decoded: FrameFile,
        activations: Tensor,
        features: Iterable[Tensor],
    ) -> None:
        self._refiner, self._candidates = refiner, candidates
        self._decoded, self._features = decoded, features
        self.weights = activations.softmax(0)  # [T, N]
        self.logits = self._classify()

    def _classify(self) -> Tensor:
        """Return `[N, K + 1]`: each row's embedding, averaged over the video by its weights."""
        device, total = self.weights.device, 0.0
        for start in range(0, len(self.weights), _BLOCK):
            stop = min(start + _BLOCK, len(self.weights))
            decoded = self._decoded.read_range(start, stop).to(device)
            total = total + torch.einsum("tn,tnc->nc", self.weights[start:stop], decoded)
        return self._refiner.class_embed(total)

    def masks(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield mask logits `[n, t, h, w]` of these rows, window by window."""
        start, device = 0, self.weights.device
        for features in self._features:
            stop = start + len(features)
            decoded = self._decoded.read_range(start, stop)[:, list(rows)].to(device)
            yield self._refiner.masks(decoded[None], features.to(device)[None])[0]
            start = stop

    def ids(self, row: int) -> int:
        """Return the track's id; fillers count down from -1."""
        kept = len(self._candidates.ids)
        return int(self._candidates.ids[row]) if row < kept else kept - row - 1

    def frame_weights(self, row: int) -> tuple[float, ...]:
        """Return how much each frame counted for the class; they sum to 1."""
        return tuple(self.weights[:, row].tolist())

    def frame_queries(self, row: int) -> tuple[int, ...]:
        """Return the segmenter's query that the row follows in each frame."""
        kept = len(self._candidates.ids)
        if row < kept:
            return self._candidates.tracks.queries(int(self._candidates.ids[row]))
        return self._candidates.linked.frame_queries(int(self._candidates.fill[row - kept]))


_BLOCK = 64  # frames of decoded embeddings in memory at once


def choose(refining: RefinerFusion, tracks: TrackRows, linked: LinkedQueries) -> Candidates:
    """Return the refiner's rows: the best tracks, then linked queries up to its number of rows."""
    kept = tracks.kept(refining.noise_frames, len(tracks))
    best = top_tracks(kept.logits, refining.topk_tracks).cpu()
    left = max(0, min(refining.num_rows, len(linked.logits)) - len(best))
    fill = top_tracks(linked.logits, left).cpu() if left else torch.zeros(0, dtype=torch.int64)
    return Candidates(tracks, linked, kept.track_ids[best], fill)


def refined_rows(
    refining: RefinerFusion,
    tracks: TrackRows,
    linked: LinkedQueries,
    spill: Spill,
    features: Iterable[Tensor],
    chunks: Chunks,
) -> RefinedRows | None:
    """Return the refiner's rows of a whole video; None where there is a single row or none.

    Up to `chunks.limit` frames the refiner sees all at once. Beyond, it sees overlapping chunks;
    the class still weighs the frames of the whole video, and rows are the same in every chunk.
    """
    candidates, refiner = choose(refining, tracks, linked), refining.refiner
    if len(candidates) <= 1:
        return None
    device = next(refiner.parameters()).device
    decoded, activations = spill.file("decoded"), list[torch.Tensor]()

    def instances(start: int, stop: int) -> Tensor:
        return candidates.embeds(start, stop).to(device).permute(2, 0, 1)[None]  # [1, C, t, N]

    def frames(start: int, stop: int) -> Tensor:
        return linked.embeds.read_range(start, stop).to(device).permute(2, 0, 1)[None]

    parts = refined_chunks(
        refiner, instances, frames, len(tracks), limit=chunks.limit, overlap=chunks.overlap
    )
    for values, scores in parts:
        for row in values[0]:
            decoded.append(row)
        activations.append(scores[0])
    return RefinedRows(refiner, candidates, decoded, torch.cat(activations), features)
