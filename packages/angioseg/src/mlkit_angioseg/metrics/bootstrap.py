"""Confidence intervals that respect that images of one patient are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def patient_interval(
    values: NDArray[np.floating], patients: Sequence[str], resamples: int, seed: int
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of the mean over images, resampling whole patients.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        values: One for each image; NaN is left out.
        patients: One for each image.
        resamples: Number of bootstrap samples.
        seed: Of the resampling.

    Returns:
        Low and high, or None where fewer than two patients have a value: nothing to resample.
    """
    known = ~np.isnan(values)
    names, index = np.unique(np.asarray(patients)[known], return_inverse=True)
    if len(names) < 2 or resamples == 0:
        return None
    sums = np.bincount(index, weights=values[known])
    counts = np.bincount(index)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), (resamples, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
