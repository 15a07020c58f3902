"""How far clusters agree with classes that the clustering has not seen, and against what odds.

Every score stands beside its baselines: the share of the largest class, the mean score of permuted
classes, and the p-value of a permutation test.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.internal import NOISE
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN_CLASS = -1  # an image without a flag
LEAST_PERMUTATIONS = 200


def external_scores(
    labels: NDArray[np.integer],
    classes: NDArray[np.integer],
    *,
    permutations: int = LEAST_PERMUTATIONS,
    seed: int = 0,
    unknown: int | None = UNKNOWN_CLASS,
) -> dict[str, object]:
    """Return agreement of clusters with classes, noise left out and noise as single images.

    Args:
        labels: `[N]`, -1 for noise.
        classes: `[N]`.
        permutations: At least 200.
        seed: Of the permutations.
        unknown: The class of images that have none; they are left out. None: all are known.

    Returns:
        Counts; `coverage`, the share of known images that are in a cluster; and under
        "noise_dropped" and "noise_as_singletons" the scores of `agreement`.

    Raises:
        InputError: For arrays of different length, or fewer than 200 permutations.
    """
    if labels.shape != classes.shape or labels.ndim != 1:
        shapes = f"{list(labels.shape)} and {list(classes.shape)}"
        raise InputError(f"labels and classes: expected [N] and [N], got {shapes}")
    if permutations < LEAST_PERMUTATIONS:
        raise InputError(f"permutations: at least {LEAST_PERMUTATIONS}, got {permutations}")
    known = np.ones(len(labels), bool) if unknown is None else classes != unknown
    labels, classes = labels[known], classes[known]
    noise = labels == NOISE
    single = labels.astype(np.int64)
    single[noise] = labels.max(initial=0) + 1 + np.arange(noise.sum())
    return {
        "images": len(labels),
        "without_class": int((~known).sum()),
        "noise": int(noise.sum()),
        "num_clusters": len(np.unique(labels[~noise])),
        "num_classes": len(np.unique(classes)),
        "coverage": _share(len(labels) - noise.sum(), len(labels)),
        "noise_dropped": agreement(labels[~noise], classes[~noise], permutations, seed),
        "noise_as_singletons": agreement(single, classes, permutations, seed),
    }


def agreement(
    labels: NDArray[np.integer], classes: NDArray[np.integer], permutations: int, seed: int
) -> dict[str, float]:
    """Return scores of two partitions of the same images; all are NaN where there is no image.

    `nmi` (arithmetic mean), `ami`, `ari`, `homogeneity`, `completeness`; `purity`, the accuracy of
    each cluster's most frequent class, beside `majority`, that of naming one class for all; for
    nmi, ari and purity the mean over permuted classes (`_permuted`); for nmi and ari also `_p`,
    (1 + permutations that score as high) / (1 + permutations).
    """
    names = ("nmi", "ami", "ari", "homogeneity", "completeness", "purity", "majority")
    permuted = ("nmi_permuted", "ari_permuted", "purity_permuted", "nmi_p", "ari_p")
    if not len(labels):
        return dict.fromkeys((*names, *permuted), math.nan)
    from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure

    labels, classes = (np.unique(values, return_inverse=True)[1] for values in (labels, classes))
    homogeneity, completeness, _ = homogeneity_completeness_v_measure(classes, labels)
    nmi, ari, purity = _table_scores(contingency(labels, classes))
    drawn = _permuted_scores(labels, classes, permutations, seed)
    at_least = (drawn >= np.array([nmi, ari, purity]) - 1e-12).sum(0)
    p_values = (1 + at_least) / (1 + permutations)
    chance = drawn.mean(0)
    return {
        "nmi": nmi,
        "ami": float(adjusted_mutual_info_score(classes, labels)),
        "ari": ari,
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "purity": purity,
        "majority": _share(np.bincount(classes).max(), len(classes)),
        "nmi_permuted": float(chance[0]),
        "ari_permuted": float(chance[1]),
        "purity_permuted": float(chance[2]),
        "nmi_p": float(p_values[0]),
        "ari_p": float(p_values[1]),
    }


def contingency(labels: NDArray[np.integer], classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return counts `[clusters, classes]` of labels and classes that both count from 0."""
    num_classes = int(classes.max()) + 1
    cells = labels.astype(np.int64) * num_classes + classes
    return np.bincount(cells, minlength=(int(labels.max()) + 1) * num_classes).reshape(
        -1, num_classes
    )


def _permuted_scores(
    labels: NDArray[np.integer], classes: NDArray[np.integer], permutations: int, seed: int
) -> NDArray[np.float64]:
    """Return nmi, ari and purity of each permutation `[permutations, 3]`."""
    rng = np.random.default_rng(seed)
    # Images alone in their cluster always make the same terms; their classes still vary.
    tables = (contingency(labels, rng.permutation(classes)) for _ in range(permutations))
    return np.array([_table_scores(table) for table in tables])


def _table_scores(table: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return NMI with the arithmetic mean, ARI and purity of counts `[clusters, classes]`.

    Sources: Strehl and Ghosh, JMLR 3, 2002; Hubert and Arabie, J. Classification 2, 1985, eq. 5.
    """
    total = int(table.sum())
    rows, columns = table.sum(1), table.sum(0)
    purity = float(table.max(1).sum() / total)
    cells = table[table > 0].astype(np.float64)
    joint, apart = _entropy(cells), _entropy(rows) + _entropy(columns)
    # Two partitions without any information, one cluster and one class, agree wholly.
    nmi = max(0.0, 2 * (apart - joint) / apart) if apart > 0 else 1.0
    same = float((cells * (cells - 1)).sum() / 2)
    in_rows, in_columns = (float((n * (n - 1.0)).sum() / 2) for n in (rows, columns))
    expected = in_rows * in_columns / max(total * (total - 1) / 2, 1)
    most = (in_rows + in_columns) / 2
    ari = (same - expected) / (most - expected) if most != expected else 1.0
    return nmi, ari, purity


def _entropy(counts: NDArray[np.floating | np.integer]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
