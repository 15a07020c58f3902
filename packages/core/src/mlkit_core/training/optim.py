"""What learns, at which rate, and what is kept of it: freezing, groups, schedule, average."""

from __future__ import annotations

import fnmatch
import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from torch import Tensor

    from mlkit_core.config.frame import OptimizerOptions

_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def _segment_matches(pattern: str, segment: str) -> bool:
    found = _RANGE.fullmatch(pattern)
    if found:
        return segment.isdigit() and int(found[1]) <= int(segment) <= int(found[2])
    return fnmatch.fnmatchcase(segment, pattern)


def matching(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the parameter names that a pattern of whole dotted segments covers.

    `encoders.image` covers all below it; `blocks.[0-5]` matches anywhere in a name, `blocks.1` is
    not `blocks.10`. A pattern that matches from the front somewhere matches only from the front, so
    that `head` is the part and not some encoder's inner `head`.
    """
    wanted = pattern.split(".")
    front: set[str] = set()
    inside: set[str] = set()
    for name in names:
        segments = name.split(".")
        for start in range(len(segments) - len(wanted) + 1):
            window = segments[start : start + len(wanted)]
            if all(map(_segment_matches, wanted, window)):
                (inside if start else front).add(name)
                break
    return front or inside


def freeze(named: Mapping[str, nn.Parameter], patterns: Collection[str]) -> None:
    """Stop the gradients of what the patterns cover."""
    for pattern in patterns:
        for name in matching(pattern, named):
            named[name].requires_grad_(False)


def set_train_mode(module: nn.Module) -> None:
    """Switch to training, but keep in eval what has parameters and none trainable.

    BatchNorm of frozen and of LoRA-adapted encoders keeps its running statistics that way.
    """
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            child.eval()


def embedding_names(module: nn.Module) -> frozenset[str]:
    """Return the parameter names of all `nn.Embedding` tables, which do not decay."""
    return frozenset(
        f"{name}.weight"
        for name, child in module.named_modules()
        if isinstance(child, nn.Embedding)
    )


def parameter_groups(
    named: Mapping[str, nn.Parameter],
    options: OptimizerOptions,
    undecayed: Collection[str] = (),
) -> list[dict[str, object]]:
    """Return optimiser groups: one for each learning-rate scale, with and without weight decay.

    Vectors (biases, norms) and what `undecayed` names do not decay. `base_lr` is what the schedule
    scales. Where two patterns of `lr_scale` cover a parameter, the one with more segments wins,
    else the later one.

    Raises:
        BuildError: Nothing is trainable.
    """
    live = {name: p for name, p in named.items() if p.requires_grad}
    if not live:
        raise BuildError("freeze: nothing is left to train")
    scale: dict[str, float] = {}
    for pattern, factor in sorted(options.lr_scale.items(), key=lambda item: item[0].count(".")):
        scale |= dict.fromkeys(matching(pattern, live), factor)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in live.items():
        plain = parameter.ndim > 1 and name not in undecayed
        decay = options.weight_decay if plain else 0.0
        groups.setdefault((options.lr * scale.get(name, 1.0), decay), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "lr": rate, "base_lr": rate}
        for (rate, decay), params in groups.items()
    ]


def rate_factor(options: OptimizerOptions, iteration: int, iterations: int) -> float:
    """Return what the schedule multiplies the learning rate with at a step, counted from 0.

    Linear warm-up over the first `warmup` share, then half a cosine down to `final_scale`
    (Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, one cycle), a constant, or a tenth of the
    rate from each of `milestones` on.
    """
    rise = math.ceil(options.warmup * iterations)
    if iteration < rise:
        return (iteration + 1) / rise
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "step":
        return 0.1 ** sum(iteration >= share * iterations for share in options.milestones)
    progress = min(1.0, (iteration - rise) / max(1, iterations - rise))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return options.final_scale + (1 - options.final_scale) * cosine


def make_optimizer(
    groups: list[dict[str, Any]], options: OptimizerOptions
) -> torch.optim.Optimizer:
    """Return the optimiser that the run file names."""
    if options.name == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.momentum > 0)
    return torch.optim.AdamW(groups, betas=options.betas)


class WeightAverage:
    """Exponential moving average of every floating-point parameter and buffer.

    Args:
        tensors: Gives the live tensors by checkpoint name.
        decay: Of the average, 0..1; smaller in the first steps, `(1 + steps) / (10 + steps)`.
            None switches the average off.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]], decay: float | None) -> None:
        self._tensors, self._decay = tensors, decay
        self.values = {n: t.detach().clone() for n, t in self._live().items()} if decay else {}

    def _live(self) -> dict[str, Tensor]:
        return {n: t for n, t in self._tensors().items() if t.is_floating_point()}

    def update(self, steps: int) -> None:
        """Move the average towards the live weights, after `steps` optimiser steps."""
        if self._decay is None:
            return
        decay = min(self._decay, (1 + steps) / (10 + steps))
        live = [tensor.detach() for tensor in self._live().values()]
        torch._foreach_lerp_(list(self.values.values()), live, 1 - decay)

    def raw(self) -> dict[str, Tensor]:
        """Return copies of the live weights, for `put`; nothing where there is no average."""
        return {n: t.detach().clone() for n, t in self._live().items()} if self.values else {}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the live weights."""
        with torch.no_grad():
            for name, tensor in self._live().items() if values else ():
                tensor.copy_(values[name])

    def restore(self, raw: Mapping[str, Tensor]) -> None:
        """Take the live weights for the average, as checkpoints keep them; put back the raw."""
        if self.values:
            self.values = {n: t.detach().clone() for n, t in self._live().items()}
            self.put(raw)
