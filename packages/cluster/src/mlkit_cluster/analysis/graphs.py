"""Graphs of nearest neighbours, where all pairs are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from mlkit_cluster.analysis.neighbors import embedding_neighbors, nearest_in_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST = 1e-12  # of the largest distance; scipy's spanning tree forgets edges of length 0


@dataclass(frozen=True)
class NeighborGraph:
    """Symmetric distances of some pairs of images; made by `neighbor_graph`.

    Every image is among its own neighbours at distance 0, as sklearn's HDBSCAN counts them.

    Args:
        starts: `[N + 1]`; image i owns `[starts[i]:starts[i + 1]]` of the others.
        columns: `[E]`, ascending for each image.
        lengths: `[E]`, positive but for an image itself.
    """

    starts: NDArray[np.integer]
    columns: NDArray[np.integer]
    lengths: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def csr(self) -> Any:  # noqa: ANN401  # scipy's sparse matrices have no useful type
        """Return a scipy CSR matrix `[N, N]` over copies."""
        arrays = (self.lengths.copy(), self.columns.copy(), self.starts.copy())
        return csr_matrix(arrays, shape=(len(self), len(self)))

    def upper(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return each pair once: the lower image, the higher, their distance."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.starts))
        keep = rows < self.columns
        return rows[keep], self.columns[keep].astype(np.int64), self.lengths[keep]


def neighbor_graph(
    images: NDArray[np.integer],
    neighbors: NDArray[np.integer],
    distances: NDArray[np.floating],
    num_images: int,
) -> NeighborGraph:
    """Return the graph of directed edges: the mean where both directions are known, else the one.

    Args:
        images: `[E]`, from where, 0..num_images-1.
        neighbors: `[E]`, to where; an edge to itself is left out.
        distances: `[E]`, finite, at least 0; one edge may come only once.
        num_images: N.

    Raises:
        InputError: For indices out of range, unknown or negative distances, edges that repeat.
    """
    _check_edges(images, neighbors, distances, num_images)
    real = images != neighbors
    low = np.minimum(images[real], neighbors[real]).astype(np.int64)
    high = np.maximum(images[real], neighbors[real]).astype(np.int64)
    pairs, place, count = np.unique(
        low * num_images + high, return_inverse=True, return_counts=True
    )
    if count.size and count.max() > 2:
        raise InputError("edges: a pair of images comes more than once in one direction")
    lengths = np.bincount(place, distances[real]) / count
    low, high = np.divmod(pairs, num_images)
    return _graph(low, high, lengths, num_images)


def dense_graph(distance: NDArray[np.floating], num_neighbors: int) -> NeighborGraph:
    """Return the graph of each image's nearest others in a symmetric matrix `[N, N]`."""
    count = min(num_neighbors, len(distance) - 1)
    index, lengths = nearest_in_rows(distance, count, np.arange(len(distance)))
    rows = np.repeat(np.arange(len(distance)), count)
    return neighbor_graph(rows, index.ravel(), lengths.ravel(), len(distance))


def embedding_graph(
    embeddings: NDArray[np.floating], num_neighbors: int, metric: str = "cosine"
) -> NeighborGraph:
    """Return the graph of each image's nearest others by embedding, without an `[N, N]` matrix."""
    index, lengths = embedding_neighbors(embeddings, num_neighbors, metric)
    rows = np.repeat(np.arange(len(embeddings)), index.shape[1])
    return neighbor_graph(rows, index.ravel(), lengths.ravel(), len(embeddings))


def joined(graph: NeighborGraph) -> tuple[NeighborGraph, int]:
    """Return a connected graph, and how many parts it had.

    Parts are chained through the first image of each by edges just longer than the longest, so
    that a hierarchy joins them last. Nothing inside a part changes. Much longer edges would make
    whole parts look more persistent to HDBSCAN than the clusters inside them.
    """
    num_parts, part = connected_components(graph.csr(), directed=False)
    if num_parts == 1:
        return graph, 1
    heads = np.sort(np.unique(part, return_index=True)[1])
    low, high, lengths = graph.upper()
    far = 1.001 * float(lengths.max(initial=0)) or 1.0
    low, high = np.concatenate([low, heads[:-1]]), np.concatenate([high, heads[1:]])
    lengths = np.concatenate([lengths, np.full(len(heads) - 1, far)])
    return _graph(low, high, lengths, len(graph)), int(num_parts)


def affinities(graph: NeighborGraph, scale_neighbor: int = 7) -> Any:  # noqa: ANN401  # scipy
    """Return exp(-d_ij^2 / (s_i s_j)) of the pairs as a CSR matrix, s_i a near neighbour's d.

    Source: Zelnik-Manor and Perona, "Self-Tuning Spectral Clustering", NIPS 2004, eq. 2-3, whose
    seventh neighbour is the default; an image with fewer takes its farthest.
    """
    order = np.lexsort((graph.lengths, np.repeat(np.arange(len(graph)), np.diff(graph.starts))))
    place = np.minimum(graph.starts[:-1] + scale_neighbor, graph.starts[1:] - 1)
    scales = graph.lengths[order][place]
    positive = scales[scales > 0]
    scales = np.maximum(scales, positive.min() if positive.size else 1.0)
    low, high, lengths = graph.upper()
    # An affinity that rounds to 0 would cut the graph.
    values = np.maximum(np.exp(-(lengths**2) / (scales[low] * scales[high])), 1e-9)
    both = (np.concatenate([low, high]), np.concatenate([high, low]))
    return csr_matrix((np.tile(values, 2), both), shape=(len(graph), len(graph)))


def _graph(
    low: NDArray[np.integer],
    high: NDArray[np.integer],
    lengths: NDArray[np.floating],
    num_images: int,
) -> NeighborGraph:
    least = _LEAST * float(lengths.max(initial=0)) or _LEAST
    lengths = np.maximum(lengths, least)
    own = np.arange(num_images)
    rows, columns = np.concatenate([low, high, own]), np.concatenate([high, low, own])
    values = np.concatenate([lengths, lengths, np.zeros(num_images)]).astype(np.float64)
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_images))])
    return NeighborGraph(starts, columns[order], values[order])


def _check_edges(
    images: NDArray[np.integer],
    neighbors: NDArray[np.integer],
    distances: NDArray[np.floating],
    num_images: int,
) -> None:
    if not images.shape == neighbors.shape == distances.shape == (len(images),):
        shapes = [list(values.shape) for values in (images, neighbors, distances)]
        raise InputError(f"edges: images, neighbors, distances must be [E], got {shapes}")
    ends = np.concatenate([images, neighbors])
    if ends.size and (ends.min() < 0 or ends.max() >= num_images):
        raise InputError(f"edges: images must be 0 to {num_images - 1}")
    if not np.isfinite(distances).all() or (distances < 0).any():
        raise InputError("edges: distances must be finite and at least 0")
