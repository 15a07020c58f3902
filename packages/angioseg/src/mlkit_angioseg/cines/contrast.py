"""Which frame of a cine shows the vessels best filled with contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import black_tophat, gaussian_filter, median_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WIDTHS_PX, _SIDE = (5, 9), 256
_STANDS_OUT = 0.1  # of the highest score
_DARKEST = 97.0  # percentile: vessels cover some 3 to 5 % of an angiogram


def contrast_score(grey: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> float:
    """Return how much of a frame is dark and thin: its mean black top-hat above a percentile.

    The black top-hat (closing minus image) keeps what is darker than its surroundings and narrower
    than the window; bones and diaphragm are wider. A catheter counts, in every frame alike.

    Args:
        grey: `[H, W]`, 0..1, vessels dark.
        inside: What collimator and shutter leave open, `[H, W]`; None: all.
    """
    step = max(1, round(max(grey.shape) / _SIDE))
    small = gaussian_filter(grey, step / 2)[::step, ::step]
    thin = np.max([black_tophat(small, size=width) for width in _WIDTHS_PX], axis=0)
    border = max(_WIDTHS_PX) // 2
    kept = np.zeros(thin.shape, bool)
    kept[border:-border, border:-border] = True
    if inside is not None:
        kept &= inside[::step, ::step]
    values = thin[kept]
    if not len(values):
        return 0.0
    return float(values[values >= np.percentile(values, _DARKEST)].mean())


def best_frame(scores: Sequence[float], representative: int | None = None) -> int:
    """Return the frame with the highest score, after a median of three against a lone outlier.

    Where scores differ by less than a tenth, no frame stands out: a cine without inflow, as of a
    phantom, or one that starts filled. Then the file's own representative frame is taken, else the
    highest score.
    """
    values = np.asarray(scores, float)
    if len(values) >= 3:
        values = median_filter(values, 3, mode="nearest")
    if representative is not None and values.min() > (1 - _STANDS_OUT) * values.max():
        return representative
    return int(values.argmax())
