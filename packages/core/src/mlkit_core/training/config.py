"""Options of the supervised trainer."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mlkit_core.config.fields import Config


class UntrainedConfig(Config):
    """How a model that nothing trains is evaluated."""

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the forward pass."
    )
    pictures: int = Field(default=8, ge=0, description="Example pictures kept per evaluation.")


class SupervisedConfig(Config):
    """How long, in what steps and at what precision to train."""

    epochs: int = Field(default=10, ge=1, description="Passes over the units of this stage.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Steps of this stage at most; null: all its epochs."
    )
    batch_size: int = Field(
        default=8, ge=1, description="Units per optimiser step, over all ranks."
    )
    accumulate: int = Field(default=1, ge=1, description="Micro-steps per optimiser step and rank.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Of the forward pass; losses are fp32 always."
    )
    clip: float | None = Field(default=1.0, gt=0, description="Largest gradient norm; null: none.")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of the weights' moving average, used to validate.",
    )
    monitor: str | None = Field(
        default=None,
        description="Metric that decides `best`, as mask-overlap.dice; null: the last.",
    )
    monitor_mode: Literal["max", "min"] = Field(
        default="max", description="Whether more is better."
    )
    validate_every: int = Field(
        default=1, ge=0, description="Epochs between validations; 0: never."
    )
    checkpoint_every: int | None = Field(
        default=None,
        ge=1,
        description="Steps between checkpoints within an epoch; null: at its end.",
    )
    log_every: int = Field(default=20, ge=1, description="Steps between lines of metrics.jsonl.")
    workers: int = Field(default=0, ge=0, description="Processes that load data, per rank.")
    pictures: int = Field(default=8, ge=0, description="Example pictures kept per evaluation.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must divide by accumulate {self.accumulate}"
            )
        return self
