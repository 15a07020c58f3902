"""What the nearest neighbours of an image tell of it, by cross-validation.

Neighbours of a test image are the training images with the smallest D[test, train]: the loss of
the test image's raw output against their predictions. No symmetrisation is needed, and whether the
input is a matrix of distances is said, never guessed from its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlkit_cluster.analysis.matrices import pair_distances, refuse_unknown, side_of
from mlkit_cluster.analysis.neighbors import nearest_in_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KS = (5, 10, 15, 20, 30, 50)
FOLDS = 10
SEED = 42
Weighting = Literal["uniform", "distance"]
WEIGHTINGS: tuple[Weighting, ...] = ("uniform", "distance")
PERMUTATIONS = 20  # of the targets, for the mean of the permuted baseline


@dataclass(frozen=True)
class FoldNeighbors:
    """Every image's nearest images of the other folds, nearest first.

    Args:
        index: `[n, K]`, positions among the n images.
        distance: `[n, K]`.
        fold: `[n]`, the fold in which the image is tested.
    """

    index: NDArray[np.int64]
    distance: NDArray[np.float64]
    fold: NDArray[np.int64]


def fold_neighbors(
    matrix: NDArray[np.floating],
    *,
    precomputed: bool,
    most: int = max(KS),
    folds: int = FOLDS,
    seed: int = SEED,
    metric: str = "cosine",
) -> FoldNeighbors:
    """Return neighbours under `KFold(folds, shuffle=True, random_state=seed)`.

    Args:
        matrix: Distances `[n, n]` (rows test, columns train; asymmetric is fine, finite, at least
            0) or embeddings `[n, D]`.
        precomputed: Whether it holds distances.
        most: K; lowered to the smallest training set.
        folds: Lowered to n.
        seed: Of the folds.
        metric: Of embeddings, "cosine" or "euclidean".

    Raises:
        InputError: For fewer than 3 images, or unknown or negative distances.
    """
    from sklearn.model_selection import KFold

    matrix = _all_pairs(matrix, metric, precomputed=precomputed)
    num_images = len(matrix)
    if num_images < 3:
        raise InputError(f"kNN: needs at least 3 images, got {num_images}")
    splits = list(KFold(min(folds, num_images), shuffle=True, random_state=seed).split(matrix))
    count = min(most, *(len(train) for train, _ in splits))
    index = np.empty((num_images, count), np.int64)
    distance = np.empty((num_images, count))
    fold = np.empty(num_images, np.int64)
    for number, (train, test) in enumerate(splits):
        near, lengths = nearest_in_rows(matrix[test][:, train], count)
        index[test], distance[test], fold[test] = train[near], lengths, number
    return FoldNeighbors(index, distance, fold)


def _all_pairs(
    matrix: NDArray[np.floating], metric: str, *, precomputed: bool
) -> NDArray[np.floating]:
    if not precomputed:
        return pair_distances(matrix, metric)
    side_of(matrix, "distance")
    refuse_unknown(matrix, "distance")
    if matrix.min() < 0:
        raise InputError("distance: expected losses of at least 0, got a negative one")
    return matrix


def classify(
    near: FoldNeighbors, classes: NDArray[np.integer], k: int, weighting: Weighting
) -> NDArray[np.integer]:
    """Return the class with the largest vote of k neighbours `[n]` (ties: the lowest class)."""
    names, numbers = np.unique(classes, return_inverse=True)
    shares = _vote_weights(near.distance[:, :k], weighting)
    cells = np.arange(len(classes))[:, None] * len(names) + numbers[near.index[:, :k]]
    votes = np.bincount(cells.ravel(), shares.ravel(), len(classes) * len(names))
    return names[votes.reshape(len(classes), len(names)).argmax(1)]


def regress(
    near: FoldNeighbors, values: NDArray[np.floating], k: int, weighting: Weighting
) -> NDArray[np.float64]:
    """Return the weighted mean of k neighbours' values `[n]`."""
    shares = _vote_weights(near.distance[:, :k], weighting)
    return (values[near.index[:, :k]] * shares).sum(1) / shares.sum(1)


def knn_scores(
    matrix: NDArray[np.floating],
    target: NDArray[np.integer] | NDArray[np.floating],
    *,
    precomputed: bool,
    task: Literal["classification", "regression"],
    ks: Sequence[int] = KS,
    folds: int = FOLDS,
    seed: int = SEED,
    metric: str = "cosine",
) -> list[dict[str, object]]:
    """Return one row of scores for each k and weighting, with the baselines beside them.

    All images are predicted once, and scores are taken over all of them. Classification:
    `accuracy`, `ari`, beside `majority` (the training fold's largest class) and
    `accuracy_permuted`, `ari_permuted`. Regression: `mae`, `r2`, `spearman`, beside
    `mae_mean` and `r2_mean` (the training fold's mean) and `mae_permuted`, `r2_permuted`. Both:
    `error_by_distance`, Spearman's correlation of an image's error with its neighbours' mean
    distance. What does not exist is NaN.

    Args:
        matrix: Distances `[N, N]` or embeddings `[N, D]`, see `fold_neighbors`.
        target: `[N]`; images with NaN, or with class -1, take no part.
        precomputed: Whether the matrix holds distances.
        task: What the target is.
        ks: Numbers of neighbours; those beyond the training set are left out.
        folds: Of the cross-validation.
        seed: Of folds and permutations.
        metric: Of embeddings.

    Raises:
        InputError: For shapes that do not fit, or fewer than 3 images with a target.
    """
    known = _with_target(matrix, target, task)
    if len(known) < len(matrix):
        matrix = matrix[known][:, known] if precomputed else matrix[known]
    near = fold_neighbors(
        matrix, precomputed=precomputed, most=max(ks), folds=folds, seed=seed, metric=metric
    )
    target = target[known]
    score = _classification if task == "classification" else _regression
    baseline = _majority(near, target) if task == "classification" else _mean(near, target)
    return [
        {"k": k, "weights": weighting, "images": len(known)}
        | score(near, target, k, weighting, seed)
        | baseline
        for k in ks
        if k <= near.index.shape[1]
        for weighting in WEIGHTINGS
    ]


def _with_target(matrix: NDArray, target: NDArray, task: str) -> NDArray[np.int64]:
    """Return the images that have a target."""
    if task not in ("classification", "regression"):
        raise InputError(f"task: expected 'classification' or 'regression', got {task!r}")
    if target.shape != (len(matrix),):
        raise InputError(f"target: expected [{len(matrix)}], got {list(target.shape)}")
    known = np.flatnonzero(target != -1 if task == "classification" else np.isfinite(target))
    if len(known) < 3:
        raise InputError(f"kNN: needs at least 3 images with a target, got {len(known)}")
    return known


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return Spearman's correlation, NaN where either is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    result: Any = spearmanr(one, other)
    return float(result.statistic)


def _vote_weights(distance: NDArray[np.float64], weighting: str) -> NDArray[np.float64]:
    """Return 1, or 1 / distance; at distance 0 only the neighbours at distance 0 count."""
    if weighting not in WEIGHTINGS:
        raise InputError(f"weights: expected 'uniform' or 'distance', got {weighting!r}")
    if weighting == "uniform":
        return np.ones_like(distance)
    zero = distance == 0
    with np.errstate(divide="ignore", over="ignore"):
        weights = np.minimum(1 / distance, np.finfo(np.float64).max / distance.shape[1])
    return np.where(zero.any(1, keepdims=True), zero, weights)


def _classification(
    near: FoldNeighbors, classes: NDArray, k: int, weighting: Weighting, seed: int
) -> dict[str, object]:
    from sklearn.metrics import adjusted_rand_score

    predicted = classify(near, classes, k, weighting)
    wrong = (predicted != classes).astype(float)
    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(PERMUTATIONS):
        drawn = rng.permutation(classes)
        guess = classify(near, drawn, k, weighting)
        chance.append((float((guess == drawn).mean()), adjusted_rand_score(drawn, guess)))
    accuracy, ari = np.mean(chance, axis=0)
    return {
        "accuracy": float(1 - wrong.mean()),
        "ari": float(adjusted_rand_score(classes, predicted)),
        "error_by_distance": rank_correlation(wrong, near.distance[:, :k].mean(1)),
        "accuracy_permuted": float(accuracy),
        "ari_permuted": float(ari),
    }


def _regression(
    near: FoldNeighbors, values: NDArray, k: int, weighting: Weighting, seed: int
) -> dict[str, object]:
    predicted = regress(near, values, k, weighting)
    errors = np.abs(predicted - values)
    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(PERMUTATIONS):
        drawn = rng.permutation(values)
        guess = regress(near, drawn, k, weighting)
        chance.append((float(np.abs(guess - drawn).mean()), _r2(drawn, guess)))
    mae, r2 = np.mean(chance, axis=0)
    return {
        "mae": float(errors.mean()),
        "r2": _r2(values, predicted),
        "spearman": rank_correlation(values, predicted),
        "error_by_distance": rank_correlation(errors, near.distance[:, :k].mean(1)),
        "mae_permuted": float(mae),
        "r2_permuted": float(r2),
    }


def _majority(near: FoldNeighbors, classes: NDArray) -> dict[str, object]:
    numbers = np.unique(classes, return_inverse=True)[1]
    hits = 0
    for fold in np.unique(near.fold):
        test = near.fold == fold
        hits += int((numbers[test] == np.bincount(numbers[~test]).argmax()).sum())
    return {"majority": hits / len(classes)}


def _mean(near: FoldNeighbors, values: NDArray) -> dict[str, object]:
    guess = np.empty(len(values))
    for fold in np.unique(near.fold):
        test = near.fold == fold
        guess[test] = values[~test].mean()
    return {"mae_mean": float(np.abs(guess - values).mean()), "r2_mean": _r2(values, guess)}


def _r2(values: NDArray, predicted: NDArray) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - predicted) ** 2).sum()) / spread if spread else math.nan
