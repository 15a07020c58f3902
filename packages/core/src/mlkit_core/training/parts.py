"""Parts by name: what is frozen, what learns at which rate, what stays in eval."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from torch import nn

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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


def trainable_names(model: nn.Module, losses: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter by its checkpoint name: `encoders.…`, `head.…`, `losses.…`."""
    named = dict(model.named_parameters())
    return named | {f"losses.{name}": p for name, p in losses.named_parameters()}


def freeze(named: Mapping[str, nn.Parameter], patterns: Collection[str]) -> set[str]:
    """Stop the gradients of what the patterns cover; return the patterns that matched nothing."""
    unmatched: set[str] = set()
    for pattern in patterns:
        covered = matching(pattern, named)
        if not covered:
            unmatched.add(pattern)
        for name in covered:
            named[name].requires_grad_(False)
    return unmatched


def set_train_mode(module: nn.Module) -> None:
    """Switch to training, but keep in eval what has parameters and none trainable.

    BatchNorm of frozen and of LoRA-adapted encoders keeps its running statistics that way.
    """
    module.train()
    for child in module.modules():
        parameters = list(child.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            child.eval()


def parameter_groups(
    named: Mapping[str, nn.Parameter], options: OptimizerOptions
) -> list[dict[str, object]]:
    """Return optimiser groups: one for each learning-rate scale, with and without weight decay.

    Vectors (biases, norms) do not decay. `base_lr` is what the schedule scales.

    Raises:
        BuildError: Nothing is trainable, or two patterns of `lr_scale` give one parameter two scales.
    """
    live = {name: p for name, p in named.items() if p.requires_grad}
    if not live:
        raise BuildError("freeze: nothing is left to train")
    scale: dict[str, tuple[str, float]] = {}
    for pattern, factor in options.lr_scale.items():
        for name in matching(pattern, live):
            known = scale.get(name)
            if known and known[1] != factor:
                longer = max(known[0], pattern, key=lambda text: text.count("."))
                if known[0].count(".") == pattern.count("."):
                    raise BuildError(f"optimizer.lr_scale: {known[0]!r} and {pattern!r} both cover {name}")
                factor = known[1] if longer == known[0] else factor  # noqa: PLW2901  # the narrower wins
            scale[name] = (pattern, factor)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in live.items():
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale.get(name, ("", 1.0))[1], decay), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "lr": options.lr * factor, "base_lr": options.lr * factor}
        for (factor, decay), params in groups.items()
    ]
