"""Pairs worth a look where no full matrix is at hand: among images alike by embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.neighbors import embedding_neighbors

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlkit_cluster.report.pairs import Pairs
    from mlkit_cluster.report.source import RunData

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairList:
    """Pairs of positions, the most telling first: `ends` `[K, 2]` and `scores` `[K]`."""

    ends: Ints
    scores: Floats


def look_alikes(embeddings: Floats, k: int = 5) -> Ints:
    """Return `[N, k]` positions of each image's nearest by cosine, -1 where there are none."""
    near = np.full((len(embeddings), k), -1, np.int64)
    known = np.flatnonzero(~np.isnan(embeddings).any(1)) if embeddings.size else near[:0, 0]
    if len(known) > 1:
        index, _ = embedding_neighbors(embeddings[known], min(k, len(known) - 1))
        near[known, : index.shape[1]] = known[index]
    return near


def _ordered(ends: Ints, scores: npt.NDArray[np.floating], limit: int) -> PairList:
    """Return each unordered pair once, the greatest score first."""
    keep = ~np.isnan(scores) & (ends >= 0).all(1)
    ends, scores = ends[keep], scores[keep]
    order = np.argsort(-scores, kind="stable")
    ends, scores = ends[order], scores[order]
    _, first = np.unique(np.sort(ends, axis=1), axis=0, return_index=True)
    chosen = np.sort(first)[:limit]
    return PairList(ends[chosen], scores[chosen].astype(np.float32))


def contradictions(run: RunData, pairs: Pairs, near: Ints, limit: int) -> PairList:
    """Return pairs that look alike to the detector's embedding but fit each other badly.

    Scores are (D_ij + D_ji - D_ii - D_jj) / 2 of the total: what the exchange of targets costs.
    """
    ends = np.stack([np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()], 1)
    ends = ends[(ends >= 0).all(1)]
    if not pairs or not len(ends):
        return PairList(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    i, j = ends[:, 0], ends[:, 1]
    cost = [pairs.total(pairs.at(a, b), run.gains) for a, b in ((i, j), (j, i), (i, i), (j, j))]
    own = np.nan_to_num(cost[2] + cost[3])  # unknown where only edges to others are stored
    return _ordered(ends, (cost[0] + cost[1] - own) / 2, limit)


def asymmetric(run: RunData, pairs: Pairs, near: Ints, limit: int) -> PairList:
    """Return pairs (i, j) with D_ij far above D_ji; scores are (D_ij - D_ji) / (D_ij + D_ji)."""
    i, j = np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()
    i, j = i[j >= 0], j[j >= 0]
    if not pairs or not len(i):
        return PairList(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    there = pairs.total(pairs.at(i, j), run.gains)
    back = pairs.total(pairs.at(j, i), run.gains)
    scores = (there - back) / np.maximum(there + back, 1e-12)
    ends = np.where((scores < 0)[:, None], np.stack([j, i], 1), np.stack([i, j], 1))
    return _ordered(ends, np.abs(scores), limit)
