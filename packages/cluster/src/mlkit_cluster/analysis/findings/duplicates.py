"""Images that are there twice, to the byte or nearly."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from mlkit_cluster.analysis.neighbors import embedding_neighbors
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class NearPair:
    """Two images of different content with almost the same embedding, `image` < `other`."""

    image: int
    other: int
    cosine: float


@dataclass(frozen=True)
class Duplicates:
    """What is there more than once.

    Args:
        exact: Groups of images with one content hash.
        near: Pairs above the threshold, the most alike first.
        groups: Images connected by either, the largest group first.
    """

    exact: list[tuple[int, ...]]
    near: list[NearPair]
    groups: list[tuple[int, ...]]


def near_duplicates(
    shas: Sequence[str | None],
    embeddings: NDArray[np.floating],
    *,
    threshold: float = 0.99,
    neighbors: int = 10,
) -> Duplicates:
    """Return exact duplicates by content, near ones by embedding.

    A near pair has a cosine of at least the threshold, and each is among the other's nearest: one
    image that is alike to many for its emptiness alone does not draw them all together.

    Args:
        shas: `[N]` content hashes; None is unknown.
        embeddings: `[N, D]`.
        threshold: Least cosine, -1..1.
        neighbors: How many nearest others, in which each must find the other.

    Raises:
        InputError: For lengths that differ, or a threshold out of range.
    """
    if len(shas) != len(embeddings):
        raise InputError(f"embeddings: expected {len(shas)} rows, got {len(embeddings)}")
    if not -1 <= threshold <= 1:
        raise InputError(f"threshold: expected -1 to 1, got {threshold}")
    exact = _same_content(shas)
    near = _near_pairs(shas, embeddings, threshold, neighbors)
    links = [(group[0], other) for group in exact for other in group[1:]]
    links += [(pair.image, pair.other) for pair in near]
    return Duplicates(exact, near, _groups(links, len(shas)))


def _same_content(shas: Sequence[str | None]) -> list[tuple[int, ...]]:
    images = defaultdict(list)
    for image, sha in enumerate(shas):
        if sha is not None:
            images[sha].append(image)
    return [tuple(group) for group in images.values() if len(group) > 1]


def _near_pairs(
    shas: Sequence[str | None],
    embeddings: NDArray[np.floating],
    threshold: float,
    neighbors: int,
) -> list[NearPair]:
    index, distances = embedding_neighbors(embeddings, neighbors)
    side, width = index.shape
    images, others = np.repeat(np.arange(side), width), index.ravel().astype(np.int64)
    found = set((images * side + others).tolist())
    cosines = 1 - distances.ravel().astype(np.float64)
    # Rounding must not part what is equal.
    close = (images < others) & (cosines >= threshold - 1e-6)
    pairs = [
        NearPair(image, other, cosine)
        for image, other, cosine in zip(
            images[close].tolist(), others[close].tolist(), cosines[close].tolist(), strict=True
        )
        if other * side + image in found and (shas[image] is None or shas[image] != shas[other])
    ]
    return sorted(pairs, key=lambda pair: (-pair.cosine, pair.image, pair.other))


def _groups(links: list[tuple[int, int]], num_images: int) -> list[tuple[int, ...]]:
    if not links:
        return []
    rows, columns = np.array(links).T
    graph = csr_matrix((np.ones(len(links)), (rows, columns)), shape=(num_images, num_images))
    part = connected_components(graph, directed=False)[1]
    members = defaultdict(list)
    for image in np.unique(np.concatenate([rows, columns])).tolist():
        members[part[image]].append(image)
    return sorted((tuple(group) for group in members.values()), key=lambda g: (-len(g), g))
