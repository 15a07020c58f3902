"""Rates of hits and false alarms over (image, class) pairs, as functions of a score.

Letters: H the hits' scores, G the number of true boxes, F_S the false alarms' scores in the pairs
of a set S, |S| the number of its pairs. A box counts at threshold t if its score is >= t.

- keeping q of the own hits: t_q is the ceil(q |H|)-th greatest of H
- at recall r: t_r is the ceil(r G)-th greatest of H; there is none where |H| < r G
- false alarms of a pair: FP_S(t) = #{f in F_S: f >= t} / |S|
- recall at b false alarms of a pair: the greatest #{h in H: h >= t} / G over all t with
  FP_S(t) <= b
- score of b false alarms a pair: the least t with FP_S(t) <= b
- AUROC: the chance that a pair with the object has a greater best score than one of S without it;
  equal ones count half, a pair without any box has the lowest score there is
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_EPS = 1e-9  # 0.7 * 10 is a little more than 7


def threshold_keeping(hits: Floats, share: float) -> float | None:
    """Return t_q, the greatest score that keeps `share` of the hits; None without hits."""
    return _greatest(hits, share * len(hits)) if len(hits) else None


def threshold_at_recall(hits: Floats, true: int, recall: float) -> float | None:
    """Return t_r, the greatest score at which `recall` of all true boxes is hit; None: nowhere."""
    return _greatest(hits, recall * true) if true and len(hits) >= recall * true - _EPS else None


def _greatest(hits: Floats, wanted: float) -> float:
    count = max(math.ceil(wanted - _EPS), 1)
    return float(np.sort(hits)[::-1][count - 1])


def rate(scores: Floats, threshold: float | None, of: int) -> float | None:
    """Return how many of `scores` reach the threshold, divided by `of`; None without either."""
    if threshold is None or not of:
        return None
    return float(np.count_nonzero(scores >= threshold)) / of


def recall_at(hits: Floats, true: int, alarms: Floats, pairs: int, budget: float) -> float:
    """Return the greatest recall with at most `budget` false alarms a pair.

    Args:
        hits: Scores of the hits.
        true: Number of true boxes, > 0.
        alarms: Scores of the false alarms in the set's pairs.
        pairs: Number of those pairs, > 0.
        budget: False alarms a pair.
    """
    allowed = math.floor(budget * pairs + _EPS)
    if len(alarms) <= allowed:
        return len(hits) / true
    border = np.sort(alarms)[::-1][allowed]  # the first that is too many
    return float(np.count_nonzero(hits > border)) / true


def score_at(alarms: Floats, pairs: int, budget: float) -> float:
    """Return the least score from which there are at most `budget` false alarms a pair.

    Args:
        alarms: Scores of the false alarms in the set's pairs.
        pairs: Number of those pairs, > 0.
        budget: False alarms a pair.
    """
    allowed = math.floor(budget * pairs + _EPS)
    if len(alarms) <= allowed:
        return 0.0
    return float(np.nextafter(np.sort(alarms)[::-1][allowed], np.inf))


def auroc(present: Floats, absent: Floats) -> float:
    """Return the area under the ROC curve of best scores, by the rank sum of Mann and Whitney.

    Args:
        present: Best score of each pair with the object, -inf where nothing was found; not empty.
        absent: Likewise of pairs without.
    """
    ranks = rankdata(np.concatenate([present, absent]))
    count = len(present)
    wins = ranks[:count].sum() - count * (count + 1) / 2
    return float(wins) / (count * len(absent))
