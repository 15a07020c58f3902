"""A resolved run file: what the light half hands to build and training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_core.plugins.specs import ComponentSpec


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters on an encoder's linear layers.

    Args:
        rank: Width of the adapters.
        alpha: Scale; the update is multiplied by alpha / rank. None: equal to rank.
        targets: Names of the linear layers; empty: the encoder's `lora_targets`.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component of a run file: its spec and its validated options."""

    spec: ComponentSpec
    owner: str  # the plugin that yields it
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """The component's name."""
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class EncoderPart(Part):
    """An encoder: `input` is the data's role that it reads (its own role where not set)."""

    input: str
    cache: bool = False
    lora: LoraOptions | None = None
    weights: str | None = None  # None: "auto" where the encoder has published weights


@dataclass(frozen=True, kw_only=True)
class FusionPart(Part):
    """A fusion and the role that it writes (`as:`, default "fused")."""

    writes: str


@dataclass(frozen=True, kw_only=True)
class LossPart(Part):
    """A loss, its weight and its name among the losses (`as:`, default its component name)."""

    label: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimiser and schedule.

    Args:
        name: "adamw" or "sgd".
        lr: Peak learning rate.
        weight_decay: Decoupled; not applied to vectors (biases, norms).
        momentum: For sgd.
        betas: For adamw.
        schedule: "cosine" to `final_scale * lr`, or "constant".
        warmup: Share of the stage's steps over which the rate rises linearly, 0..1.
        final_scale: Where the cosine ends, as a share of `lr`.
        lr_scale: Dotted segments of parameter names to a factor.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: float = 0.0
    final_scale: float = 0.0
    lr_scale: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage, complete: the file with this and all earlier stages merged over it."""

    name: str
    data: Part | None
    encoders: Mapping[str, EncoderPart]
    fusions: tuple[FusionPart, ...]
    head: Part | None
    losses: tuple[LossPart, ...]
    metrics: tuple[Part, ...]
    freeze: tuple[str, ...]
    fresh: tuple[str, ...]
    optimizer: OptimizerOptions
    trainer: Part | None
    extractor: Part | None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run file.

    Args:
        name: Of the run and its folder.
        seed: Of everything.
        init_from: Weights to start from, a checkpoint folder or file.
        stages: At least one; a file without `stages` has one named "main".
        resolved: The file as plain values, overrides applied, defaults not filled in.
        path: Where it was read.
    """

    name: str
    seed: int
    init_from: Path | None
    stages: tuple[StageConfig, ...]
    resolved: Mapping[str, Any]
    path: Path = field(compare=False)
