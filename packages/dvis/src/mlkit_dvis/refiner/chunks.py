"""The refiner over a video that is too long for one pass: overlapping chunks of frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_dvis.refiner.temporal import TemporalRefiner

Reader = Callable[[int, int], Tensor]
"""Gives the embeddings of frames `start` up to `stop`, `[B, C, t, N]`."""


@dataclass(frozen=True)
class Chunk:
    """Frames `start` up to `stop` that the refiner sees at once; those it answers for.

    Args:
        start: First frame.
        stop: After the last one.
        first: First frame that is taken from this chunk.
        last: After the last one.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def own(self) -> slice:
        """Where the frames that are taken lie within the chunk."""
        return slice(self.first - self.start, self.last - self.start)


def chunk_ranges(frames: int, limit: int = 120, overlap: int = 40) -> list[Chunk]:
    """Return the fewest chunks of `limit` frames, evenly spread; one where all frames fit.

    Each frame is taken from the chunk in which it lies farthest from a cut; the video's own ends
    are none.

    Args:
        frames: Of the video, at least 1.
        limit: Frames of a chunk at most.
        overlap: Frames that neighbours share at least; below `limit`.

    Raises:
        InputError: A number is out of range.
    """
    if frames < 1 or not 0 <= overlap < limit:
        raise InputError(
            f"chunks: frames {frames} must be at least 1, overlap {overlap} from 0 to below "
            f"limit {limit}"
        )
    if frames <= limit:
        return [Chunk(0, frames, 0, frames)]
    count = math.ceil((frames - overlap) / (limit - overlap))
    starts = [index * (frames - limit) // (count - 1) for index in range(count)]
    cuts = [(start + limit + following) // 2 for start, following in pairwise(starts)]
    owned = pairwise([0, *cuts, frames])
    return [
        Chunk(start, start + limit, first, last)
        for start, (first, last) in zip(starts, owned, strict=True)
    ]


def refined_chunks(
    refiner: TemporalRefiner,
    instance_embeds: Reader,
    frame_embeds: Reader,
    frames: int,
    *,
    limit: int = 120,
    overlap: int = 40,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield decoded rows `[B, t, N, C]` and activations `[B, t, N]` of successive frames.

    Together they are every frame once, in order. Up to `limit` frames this is one exact pass;
    above, a frame sees only its chunk. Rows are the same in every chunk, so identities hold.

    Args:
        refiner: In eval mode, under `no_grad`.
        instance_embeds: Reads the rows' embeddings, on the refiner's device.
        frame_embeds: Reads the segmenter's queries.
        frames: Of the video.
        limit: Frames that the refiner sees at once.
        overlap: Frames that two chunks share at least.

    Raises:
        InputError: A number is out of range.
    """
    for chunk in chunk_ranges(frames, limit, overlap):
        decoded, activations = refiner.refine(
            instance_embeds(chunk.start, chunk.stop),
            frame_embeds(chunk.start, chunk.stop),
            first_frame=chunk.start,
        )
        yield decoded[:, chunk.own], activations[:, chunk.own]


def refine_chunks(
    refiner: TemporalRefiner,
    instance_embeds: Reader,
    frame_embeds: Reader,
    frames: int,
    *,
    limit: int = 120,
    overlap: int = 40,
) -> tuple[Tensor, Tensor]:
    """Return the whole video's decoded rows `[B, T, N, C]` and activations `[B, T, N]`.

    `refiner.classify` of both weighs the frames of the whole video, chunks or not. The arguments
    are those of `refined_chunks`.
    """
    parts = refined_chunks(
        refiner, instance_embeds, frame_embeds, frames, limit=limit, overlap=overlap
    )
    decoded, activations = zip(*parts, strict=True)
    return torch.cat(decoded, 1), torch.cat(activations, 1)
