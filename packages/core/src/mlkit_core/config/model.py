"""The frame of a run file as pydantic models: everything but the components' own options."""

# Values before validation, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from mlkit_core.config.fields import Config, RunPath, from_run_file
from mlkit_core.config.frame import OptimizerOptions

_SEGMENT = r"([A-Za-z0-9_-]+|\[\d+-\d+\])"
_WEIGHTS = r"auto|none|hf:[^/\s]+/\S+|.+\.(safetensors|pt|pth)"


def _part_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"must be letters, digits, '_' and '-' only, got {name!r}")
    return name


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"must be a folder's name: letters, digits, '.', '_', '-', got {name!r}")
    return name


def _dotted(path: str) -> str:
    if not re.fullmatch(rf"{_SEGMENT}(\.{_SEGMENT})*", path):
        raise ValueError(f"must be dotted names such as encoders.image.blocks.[0-5], got {path!r}")
    return path


def _weights(weights: str, info: ValidationInfo) -> str | Path:
    if not re.fullmatch(_WEIGHTS, weights):
        raise ValueError(
            "must be auto, none, a .safetensors, .pt or .pth file, or hf:owner/repository/file, "
            f"got {weights!r}"
        )
    if weights in ("auto", "none") or weights.startswith("hf:"):
        return weights
    return from_run_file(Path(weights), info)


def _listed(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


def _without_nulls(value: object) -> object:
    return (
        {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value
    )


PartName = Annotated[str, AfterValidator(_part_name)]
Dotted = Annotated[str, AfterValidator(_dotted)]
Weights = Annotated[str, AfterValidator(_weights)]


class Entry(BaseModel):
    """Where a component stands: its name; what is not reserved are its own options."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str


class Frame(Config):
    """A mapping of the frame: a key that is null counts as absent, so that stages can remove it."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {k: v for k, v in value.items() if v is not None or k not in cls.model_fields}


class LoraFrame(Frame):
    """Low-rank adapters on an encoder's linear layers."""

    rank: int = Field(ge=1)
    alpha: float | None = Field(default=None, gt=0)
    targets: tuple[str, ...] = ()


class EncoderEntry(Entry):
    """An encoder of the model."""

    input: PartName | None = None
    cache: bool = False
    lora: LoraFrame | None = None
    weights: Weights | None = None  # a Path where it names a file

    @model_validator(mode="after")
    def _cache_is_frozen(self) -> Self:
        if self.cache and self.lora:
            raise ValueError("cache needs a frozen encoder, and lora adapts it; drop one")
        return self


class FusionEntry(Entry):
    """A fusion of the model."""

    as_: PartName = Field(default="fused", alias="as")


class LossEntry(Entry):
    """A loss and its weight."""

    as_: PartName | None = Field(default=None, alias="as")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class ModelFrame(Frame):
    """The sentence: encoders by role, fusion, head."""

    encoders: Annotated[
        dict[PartName, EncoderEntry], Field(min_length=1), BeforeValidator(_without_nulls)
    ]
    fusion: Annotated[tuple[FusionEntry, ...], BeforeValidator(_listed)] = ()
    head: Entry | None = None


class OptimizerFrame(Frame):
    """Optimiser and schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=OptimizerOptions.lr, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=OptimizerOptions.weight_decay, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=OptimizerOptions.momentum, ge=0, lt=1)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        OptimizerOptions.betas
    )
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=OptimizerOptions.warmup, ge=0, le=1)
    final_scale: float = Field(default=OptimizerOptions.final_scale, ge=0, le=1)
    lr_scale: Annotated[
        dict[Dotted, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        BeforeValidator(_without_nulls),
    ] = Field(default_factory=dict)


class RunFrame(Frame):
    """A whole run file, or one stage of it merged over the rest."""

    name: Annotated[str, AfterValidator(_run_name)]
    seed: int = Field(default=0, ge=0)
    init_from: RunPath | None = None
    data: Entry | None = None
    model: ModelFrame | None = None
    losses: tuple[LossEntry, ...] = ()
    metrics: tuple[Entry, ...] = ()
    freeze: tuple[Dotted, ...] = ()
    fresh: tuple[Dotted, ...] = ()
    optimizer: OptimizerFrame = OptimizerFrame()
    trainer: Entry | None = None
    extractor: Entry | None = None
    stages: None = None  # taken apart before; listed so that hints know it
