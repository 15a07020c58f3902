"""One prototype out of K shots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from torch import Tensor

Aggregate = Literal["mean", "geomedian", "max", "attention"]
_STEPS, _NEAR, _SHARP = 32, 1e-6, 10.0


def aggregate(protos: Tensor, valid: Tensor, how: Aggregate = "mean") -> Tensor:
    """Return one prototype of unit length for each class, `[N, D]`; a class without shots is zero.

    - "mean": of the real shots.
    - "geomedian": the point with the least sum of distances to them (Weiszfeld's iteration), which
      one odd photo moves little.
    - "max": per channel the value of greatest magnitude.
    - "attention": mean weighed by softmax of ten times the cosine with the mean.

    Args:
        protos: `[N * K, D]`, shots of unit length, class by class.
        valid: `[N, K]` bool, real shots.
        how: As above.

    Raises:
        BuildError: The rows do not fit, or the name is unknown.
    """
    if protos.shape[0] != valid.numel():
        raise BuildError(f"prototypes: {protos.shape[0]} rows for {tuple(valid.shape)} shots")
    shots = protos.unflatten(0, valid.shape)  # [N, K, D]
    real = valid.unsqueeze(-1).to(shots.dtype)
    mean = (shots * real).sum(1) / real.sum(1).clamp_min(1)
    if how == "mean":
        found = mean
    elif how == "geomedian":
        found = _geometric_median(shots, real, mean)
    elif how == "max":
        place = (shots * real).abs().argmax(1, keepdim=True)
        found = shots.gather(1, place).squeeze(1) * valid.any(1, keepdim=True)
    elif how == "attention":
        likeness = (shots * functional.normalize(mean, dim=-1)[:, None]).sum(-1)
        # Not -inf: a class without shots would have no gradient but NaN.
        likeness = (_SHARP * likeness).masked_fill(~valid, -1e4)
        found = (shots * (likeness.softmax(1).unsqueeze(-1) * real)).sum(1)
    else:
        raise BuildError(f"aggregate: mean, geomedian, max or attention, not {how!r}")
    return functional.normalize(found, dim=-1)


def _geometric_median(shots: Tensor, real: Tensor, start: Tensor) -> Tensor:
    """Return the geometric median `[N, D]`.

    Source: Weiszfeld, Tohoku Mathematical Journal 43, 1937; the weights of the last step carry the
    gradient.
    """
    with torch.no_grad():
        middle = start
        for _ in range(_STEPS):
            middle = _weiszfeld(shots, real, middle)
    return _weiszfeld(shots, real, middle)


def _weiszfeld(shots: Tensor, real: Tensor, middle: Tensor) -> Tensor:
    distance = (shots - middle[:, None]).norm(dim=-1, keepdim=True).clamp_min(_NEAR)
    weights = real / distance
    return (shots * weights).sum(1) / weights.sum(1).clamp_min(_NEAR)
