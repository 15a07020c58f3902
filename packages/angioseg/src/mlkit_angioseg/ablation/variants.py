"""The axes of an ablation, their values, and a variant's run file."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from mlkit_angioseg.ablation.losses import check_losses
from mlkit_angioseg.ablation.overlays import Change, change_of
from mlkit_angioseg.config import ViewAngleConfig
from mlkit_core.config import dump_resolved, load_config
from mlkit_core.config.merge import merged, with_whole_stages
from mlkit_core.config.tree import Node, parse
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mlkit_core.config.frame import RunConfig

Plain = dict[str, Any]
ENCODINGS: tuple[str, ...] = get_args(ViewAngleConfig.model_fields["encoding"].annotation)
VALUES: Mapping[str, tuple[str, ...]] = {
    "view": ("none", "film", "xattn", *ENCODINGS),
    "angles": ("true", "shuffled", "zero", "flipped"),
    "loss": (),  # any sum; `check_losses` knows them
    "encoder": ("frozen", "lora", "unfrozen", "resnet"),
    "head": ("small", "middle", "large"),
}


@dataclass(frozen=True)
class Variant:
    """A value of one axis; all else is the base's. The base itself has neither."""

    axis: str = ""
    value: str = ""

    @property
    def name(self) -> str:
        """Its name as a folder: `view-none`, `loss-bce-dice`, `base`."""
        return f"{self.axis}-{self.value.replace('+', '-')}" if self.axis else "base"

    @property
    def label(self) -> str:
        """Its name in tables: `view none`, `base`."""
        return f"{self.axis} {self.value}" if self.axis else "base"


BASE = Variant()


def parse_variants(asked: Mapping[str, Iterable[str]]) -> list[Variant]:
    """Return the variants that options ask for, in their order, each once.

    Args:
        asked: Axis to what was given: values, or lists of them with commas.

    Raises:
        InputError: A value is unknown, or there is nothing to compare.
    """
    found: dict[Variant, None] = {}
    for axis, texts in asked.items():
        for value in (word.strip() for text in texts for word in text.split(",")):
            if axis == "loss":
                check_losses(value)
            elif value not in VALUES[axis]:
                hint = f"there are {', '.join(VALUES[axis])}"
                raise InputError(f"--{axis}: no value {value!r}", hint=hint)
            found[Variant(axis, value)] = None
    if not found:
        hint = f"say at least one of {', '.join(f'--{axis}' for axis in VALUES)}"
        raise InputError("nothing to compare the base with", hint=hint)
    return list(found)


def write_run_file(
    config: RunConfig, variant: Variant, seed: int, folder: Path
) -> tuple[RunConfig, bool]:
    """Write a variant's resolved run file; return it, validated, and whether it is the base's.

    The variant is laid over every stage, so that no stage takes it back.

    Args:
        config: The base.
        variant: A trained one; `angles` changes no run file.
        seed: Of the run.
        folder: Where `<variant>.yaml` goes; made.

    Raises:
        InputError: The variant cannot be made out of this base.
    """
    plain = deepcopy(dict(config.resolved))
    changed = False
    if variant.axis:
        plain, changed = _varied(config, plain, variant)
        plain["name"] = f"{config.name}-{variant.name}"
    if seed != config.seed:
        plain["seed"] = seed
        plain["name"] = f"{plain['name']}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_name(variant, seed, config.seed)}.yaml"
    text = dump_resolved(config.model_copy(update={"resolved": plain}))
    path.write_text(text, encoding="utf-8")
    return load_config(path), not changed


def run_name(variant: Variant, seed: int, first: int) -> str:
    """Return the name of a variant's run of a seed: `view-none`, `view-none-s8`."""
    return variant.name if seed == first else f"{variant.name}-s{seed}"


def _varied(config: RunConfig, plain: Plain, variant: Variant) -> tuple[Plain, bool]:
    root = _node(plain)
    whole, is_trained = with_whole_stages(root), config.init_from is not None
    stages = whole.listed("stages")
    changes = [
        change_of(variant.axis, variant.value, stage, node.plain(), is_trained=is_trained)
        for stage, node in zip(config.stages, stages, strict=True)
    ]
    if not any(changes):
        return plain, False
    if root.get("stages") is None:
        return _laid_over(root, changes[0]), True
    laid = [_laid_over(node, change) for node, change in zip(stages, changes, strict=True)]
    return {**whole.plain(), "stages": laid}, True


def _laid_over(node: Node, change: Change) -> Plain:
    result: Plain = merged(node, _node(change.values)).plain()
    rates = (result.get("optimizer") or {}).get("lr_scale") or {}
    for pattern in change.dropped_rates & rates.keys():
        del rates[pattern]
    return result


def _node(plain: Mapping[str, object]) -> Node:
    return parse(json.dumps(plain), lambda line: f"variant:{line}")  # JSON is YAML
