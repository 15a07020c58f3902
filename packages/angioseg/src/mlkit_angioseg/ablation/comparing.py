"""Scores of variants on the same images, their differences, and intervals over patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_angioseg.metrics.bootstrap import patient_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Row = dict[str, "str | float | int | bool | None"]


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a mean over images; `by` says what was resampled: patient or cine."""

    low: float
    high: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One score of a variant, and against the base on the same images.

    Args:
        mean: Over images, each averaged over seeds.
        interval: Of the mean; None where there is nothing to resample.
        difference: Mean of variant minus base over the images of both; None for the base.
        difference_interval: Of the difference, images kept in pairs.
        seed_spread: Standard deviation of the mean over seeds; None of fewer than two.
        pairs: Images that both have a score of.
    """

    mean: float
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None
    seed_spread: float | None = None
    pairs: int = 0


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: number of samples, and the seed."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Scored:
    """A score of images: values, NaN where undefined, with the patient and cine of each."""

    values: NDArray[np.float64]
    keys: tuple[str, ...]
    patients: tuple[str, ...]
    cines: tuple[str, ...]


def scored(runs: Sequence[Sequence[Row]], score: str) -> Scored:
    """Return each image's score, averaged over runs of several seeds.

    Args:
        runs: For each seed, one row for each image, all of the same images.
        score: A column.
    """
    by_key: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            value = row.get(score)
            number = float(value) if isinstance(value, int | float) else float("nan")
            by_key.setdefault(str(row["key"]), []).append(number)
    about = {str(row["key"]): row for row in runs[0]}
    keys = tuple(sorted(by_key))
    return Scored(
        np.array([np.mean(by_key[key]) for key in keys], np.float64),
        keys,
        tuple(str(about[key].get("patient", key)) for key in keys),
        tuple(str(about[key].get("cine", key)) for key in keys),
    )


def compare(
    runs: Sequence[Sequence[Row]], base: Sequence[Sequence[Row]] | None, score: str, how: Resampling
) -> Comparison:
    """Return a variant's score and its difference to the base's.

    Args:
        runs: The variant's rows for each seed.
        base: The base's; None for the base itself.
        score: A column.
        how: Of the intervals.
    """
    own = scored(runs, score)
    means = [mean_of(scored([rows], score).values) for rows in runs]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
    mean, interval = mean_of(own.values), interval_of(own, how)
    if base is None:
        return Comparison(
            mean=mean, interval=interval, seed_spread=spread, pairs=int(own.values.size)
        )
    apart = paired(own, scored(base, score))
    return Comparison(
        mean=mean,
        interval=interval,
        difference=mean_of(apart.values),
        difference_interval=interval_of(apart, how),
        seed_spread=spread,
        pairs=int(np.isfinite(apart.values).sum()),
    )


def mean_of(values: NDArray[np.float64]) -> float:
    """Return the mean of what is defined, NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def paired(variant: Scored, base: Scored) -> Scored:
    """Return the difference of each image that both have."""
    other: Mapping[str, float] = dict(zip(base.keys, base.values.tolist(), strict=True))
    kept = [i for i, key in enumerate(variant.keys) if key in other]
    return Scored(
        np.array([variant.values[i] - other[variant.keys[i]] for i in kept], np.float64),
        tuple(variant.keys[i] for i in kept),
        tuple(variant.patients[i] for i in kept),
        tuple(variant.cines[i] for i in kept),
    )


def interval_of(images: Scored, how: Resampling) -> Interval | None:
    """Return the interval by patients, of one patient alone by its cines, else None."""
    for by, groups in (("patient", images.patients), ("cine", images.cines)):
        found = patient_interval(images.values, groups, how.resamples, how.seed)
        if found is not None:
            return Interval(*found, by)
    return None
