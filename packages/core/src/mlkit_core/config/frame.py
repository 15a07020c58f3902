"""A run file, validated: what the light half hands to build and training."""

# Values before validation, which strict mode cannot follow.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002  # pydantic reads it

from mlkit_core.config.explain import DOTTED, PART_NAME, RUN_NAME, WEIGHTS
from mlkit_core.config.fields import Frame, OfKind, RunPath, from_run_file
from mlkit_core.config.fields import Part as Part


def _from_run_file(weights: str, info: ValidationInfo) -> str:
    named = weights in ("auto", "none") or weights.startswith("hf:")
    return weights if named else str(from_run_file(Path(weights), info))


def _listed(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


def _reading(encoders: object) -> object:
    """Drop encoders that are null; `input` is the role itself where it is not said."""
    if not isinstance(encoders, Mapping):
        return encoders
    return {
        role: {"input": role, **entry} if isinstance(entry, Mapping) else entry
        for role, entry in encoders.items()
        if entry is not None
    }


# What a pattern means stands in `explain.MUST_BE`.
PartName = Annotated[str, Field(pattern=PART_NAME)]
RunName = Annotated[str, Field(pattern=RUN_NAME)]
Dotted = Annotated[str, Field(pattern=DOTTED)]
Weights = Annotated[str, Field(pattern=WEIGHTS), AfterValidator(_from_run_file)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LoraOptions(Frame):
    """Low-rank adapters on an encoder's linear layers.

    Args:
        rank: Width of the adapters.
        alpha: Scale; the update is multiplied by alpha / rank. None: equal to rank.
        targets: Names of the linear layers; empty: the encoder's `lora_targets`.
    """

    rank: int = Field(ge=1)
    alpha: float | None = Field(default=None, gt=0)
    targets: tuple[str, ...] = ()


class EncoderPart(Part):
    """An encoder: `input` is the data's role that it reads (its own role where not set)."""

    input: PartName
    cache: bool = False
    lora: LoraOptions | None = None
    weights: Weights | None = None  # None: "auto" where the encoder has published weights

    @model_validator(mode="after")
    def _cache_is_frozen(self) -> Self:
        if self.cache and self.lora:
            raise ValueError("cache needs a frozen encoder, and lora adapts it; drop one")
        return self


class FusionPart(Part):
    """A fusion and the role that it writes (`as:`, default "fused")."""

    writes: PartName = Field(default="fused", alias="as")


class LossPart(Part):
    """A loss, its weight and its name among the losses (`as:`, default its component name)."""

    as_: PartName | None = Field(default=None, alias="as")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @property
    def label(self) -> str:
        """The loss's name among the losses."""
        return self.as_ or self.name


Encoder = Annotated[EncoderPart, OfKind("encoder")]
Fusion = Annotated[FusionPart, OfKind("fusion")]


class ModelParts(Frame):
    """The sentence: encoders by role, fusion, head."""

    encoders: Annotated[dict[PartName, Encoder], BeforeValidator(_reading)]
    fusions: Annotated[
        tuple[Fusion, ...],
        BeforeValidator(_listed, json_schema_input_type=Fusion | tuple[Fusion, ...] | None),
    ] = Field(default=(), alias="fusion")
    head: Annotated[Part, OfKind("head")] | None = None


class OptimizerOptions(Frame):
    """Optimiser and schedule.

    Args:
        name: "adamw" or "sgd".
        lr: Peak learning rate.
        weight_decay: Decoupled; not applied to vectors (biases, norms) and embedding tables.
        momentum: For sgd.
        betas: For adamw.
        schedule: "cosine" to `final_scale * lr`, "constant", or "step".
        milestones: For "step": shares of the stage's steps at which the rate falls to a tenth.
        warmup: Share of the stage's steps over which the rate rises linearly, 0..1.
        final_scale: Where the cosine ends, as a share of `lr`.
        lr_scale: Dotted segments of parameter names to a factor.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: Factor = 0.01
    momentum: Decay = 0.9
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    milestones: tuple[Share, ...] = (0.7,)
    warmup: Share = 0.0
    final_scale: Share = 0.0
    lr_scale: dict[Dotted, Factor] = Field(default_factory=dict)


class StageConfig(Frame):
    """One stage, complete: the file with this and all earlier stages merged over it."""

    name: PartName
    data: Annotated[Part, OfKind("data")] | None = None
    model: ModelParts | None = None
    losses: tuple[Annotated[LossPart, OfKind("loss")], ...] = ()
    metrics: tuple[Annotated[Part, OfKind("metric")], ...] = ()
    freeze: tuple[Dotted, ...] = ()
    fresh: tuple[Dotted, ...] = ()
    optimizer: OptimizerOptions = OptimizerOptions()
    trainer: Annotated[Part, OfKind("trainer")] | None = None
    extractor: Annotated[Part, OfKind("extractor")] | None = None

    def with_random_weights(self) -> Self:
        """Return the stage with encoders that load nothing."""
        random = {r: e.model_copy(update={"weights": "none"}) for r, e in self.encoders.items()}
        model = self.model.model_copy(update={"encoders": random}) if self.model else None
        return self.model_copy(update={"model": model})

    @property
    def encoders(self) -> Mapping[str, EncoderPart]:
        """Role to encoder."""
        return self.model.encoders if self.model else {}

    @property
    def fusions(self) -> tuple[FusionPart, ...]:
        """The fusions, in order."""
        return self.model.fusions if self.model else ()

    @property
    def head(self) -> Part | None:
        """The head, where there is one."""
        return self.model.head if self.model else None


class RunConfig(Frame):
    """A whole run file.

    Args:
        name: Of the run and its folder.
        seed: Of everything.
        init_from: Weights to start from, a checkpoint folder or file.
        stages: At least one; a file without `stages` has one named "main".
        resolved: The file as plain values, overrides applied, defaults not filled in.
    """

    name: RunName
    seed: int = Field(default=0, ge=0)
    init_from: RunPath | None = None
    stages: tuple[StageConfig, ...]
    resolved: SkipJsonSchema[dict[str, Any]] = Field(default_factory=dict)
