"""Optimisers and the learning rate's way through a stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mlkit_core.config.frame import OptimizerOptions


def rate_factor(options: OptimizerOptions, iteration: int, iterations: int) -> float:
    """Return what the schedule multiplies the learning rate with at a step, counted from 0.

    Linear warm-up over the first `warmup` share, then half a cosine down to `final_scale`
    (Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, one cycle).
    """
    rise = math.ceil(options.warmup * iterations)
    if iteration < rise:
        return (iteration + 1) / rise
    if options.schedule == "constant":
        return 1.0
    progress = min(1.0, (iteration - rise) / max(1, iterations - rise))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return options.final_scale + (1 - options.final_scale) * cosine


def make_optimizer(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    """Return the optimiser that the run file names."""
    if options.name == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.momentum > 0)
    return torch.optim.AdamW(groups, betas=options.betas)
