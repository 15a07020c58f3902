"""Whether new images are unlike a reference set, by the loss to their nearest reference image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.analysis.matrices import side_of
from mlkit_cluster.analysis.neighbors import nearest_in_rows
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TAIL_PERCENTILE = 95.0
_NEAREST_KEPT = 64  # of each reference image; a split that holds all of them reads the row again


@dataclass(frozen=True)
class Drift:
    """How a batch's nearest-reference losses lie against the reference's own.

    Args:
        losses: `[M]`, of each new image's output against its nearest reference's predictions.
        nearest: `[M]`, that reference image.
        reference: `[N]`, the same for each reference image among the others.
        ks: Kolmogorov and Smirnov's statistic of the two, 0..1.
        ks_p: Its p-value by scipy, which holds the losses for independent. They are not.
        ks_split_p: By random splits of the reference; `splits` says how many. Prefer it.
        threshold: The reference's 95th percentile.
        above: Share of new images above it; 0.05 where nothing has changed.
        above_split_p: The p-value of that share, by the same splits.
        splits: How often the reference was split in a batch and a rest.
    """

    losses: NDArray[np.float32]
    nearest: NDArray[np.int64]
    reference: NDArray[np.float32]
    ks: float
    ks_p: float
    ks_split_p: float
    threshold: float
    above: float
    above_split_p: float
    splits: int


def drift(
    batch: NDArray[np.floating],
    reference: NDArray[np.floating],
    *,
    splits: int = 200,
    seed: int = 0,
) -> Drift:
    """Return whether a new batch lies farther from the reference than the reference from itself.

    Chance is measured where it is known to be chance: random parts of the reference are treated as
    batches of the same size (at most half of it) against the rest, and p is (1 + splits that look
    at least as far) / (1 + splits).

    Args:
        batch: `[M, N]`, rows of new images' outputs against the reference's predictions; NaN where
            a reference image has none.
        reference: `[N, N]`, the same of the reference; its diagonal is not read.
        splits: At least 19, without which no p can reach 0.05.
        seed: Of the splits.

    Raises:
        InputError: For shapes that do not fit, fewer than 4 reference images, or an image whose
            loss against every reference is unknown.
    """
    side = _checked_side(batch, reference, splits)
    nearest, losses = _known(nearest_in_rows(batch, 1), "batch")
    kept = min(_NEAREST_KEPT, side - 1)
    ranked = _known(nearest_in_rows(reference, kept, np.arange(side)), "reference")
    own = ranked[1][:, 0]
    ks, p = _ks(losses[:, 0], own)
    above = _share_above(losses[:, 0], own)
    drawn = _split_scores(reference, ranked, min(len(batch), side // 2), splits, seed)
    observed = np.array([ks * _scale(len(batch), side), above])
    split_p = (1 + (drawn >= observed - 1e-12).sum(0)) / (1 + splits)
    return Drift(
        losses=losses[:, 0],
        nearest=nearest[:, 0],
        reference=own,
        ks=ks,
        ks_p=p,
        ks_split_p=float(split_p[0]),
        threshold=float(np.percentile(own, TAIL_PERCENTILE)),
        above=above,
        above_split_p=float(split_p[1]),
        splits=splits,
    )


def _checked_side(batch: NDArray[np.floating], reference: NDArray[np.floating], splits: int) -> int:
    side = side_of(reference, "reference")
    if batch.ndim != 2 or batch.shape[1] != side or not len(batch):
        raise InputError(f"batch: expected [M, {side}] with M > 0, got {list(batch.shape)}")
    if side < 4:
        raise InputError(f"reference: expected at least 4 images, got {side}")
    if splits < 19:
        raise InputError(f"splits: expected at least 19, got {splits}")
    return side


def _known(
    ranked: tuple[NDArray[np.int64], NDArray[np.float32]], name: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    unknown = np.flatnonzero(ranked[0][:, 0] < 0)
    if len(unknown):
        raise InputError(f"{name}: image {unknown[0]} has no known loss against the reference")
    return ranked


def _ks(one: NDArray[np.floating], other: NDArray[np.floating]) -> tuple[float, float]:
    from scipy.stats import ks_2samp

    result: Any = ks_2samp(one, other)
    return float(result.statistic), float(result.pvalue)


def _scale(one: int, other: int) -> float:
    """Return what makes the statistics of samples of different sizes comparable."""
    return float(np.sqrt(one * other / (one + other)))


def _share_above(losses: NDArray[np.floating], own: NDArray[np.floating]) -> float:
    return float((losses > np.percentile(own, TAIL_PERCENTILE)).mean())


def _split_scores(
    reference: NDArray[np.floating],
    ranked: tuple[NDArray[np.int64], NDArray[np.float32]],
    size: int,
    splits: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return scaled statistic and share above of random parts of the reference `[splits, 2]`."""
    rng = np.random.default_rng(seed)
    scores = np.empty((splits, 2))
    for split in range(splits):
        rest = np.ones(len(reference), bool)
        rest[rng.choice(len(reference), size, replace=False)] = False
        losses = _nearest_in(reference, ranked, rest)
        part, own = losses[~rest], losses[rest]
        part, own = part[~np.isnan(part)], own[~np.isnan(own)]
        if not len(part) or not len(own):  # every known value lies in the other part
            scores[split] = np.inf
            continue
        statistic = _ks_statistic(part, own)
        scores[split] = statistic * _scale(len(part), len(own)), _share_above(part, own)
    return scores


def _ks_statistic(part: NDArray[np.floating], own: NDArray[np.floating]) -> float:
    """Return the largest gap of the two distribution functions, without a p-value's cost."""
    both = np.concatenate([part, own])
    below = [
        np.searchsorted(np.sort(sample), both, "right") / len(sample) for sample in (part, own)
    ]
    return float(np.abs(below[0] - below[1]).max())


def _nearest_in(
    reference: NDArray[np.floating],
    ranked: tuple[NDArray[np.int64], NDArray[np.float32]],
    rest: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return each image's loss to its nearest other one of the rest, NaN where unknown."""
    index, losses = ranked
    inside = rest[index] & (index >= 0)
    nearest = losses[np.arange(len(index)), inside.argmax(1)]
    for image in np.flatnonzero(~inside.any(1)):
        row = np.array(reference[image], np.float32)
        row[image] = np.nan
        row = row[rest & np.isfinite(row)]
        nearest[image] = row.min() if len(row) else np.nan
    return nearest
