"""Options of refdet's head. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Config


class DualConfig(Config):
    """Detection head: a standard branch over maps, a prototype branch over pairs, or both."""

    on: str | None = Field(default=None, description="Role to read; null: the one written last.")
    mode: Literal["standard", "prototype", "dual"] = Field(
        default="prototype",
        description="prototype finds the objects of the photos; standard the data's own classes; "
        "dual trains both, and predicts by the photos.",
    )
    hidden: int = Field(default=64, ge=8, description="Width of the prototype branch.")
    scale: float = Field(default=10.0, gt=0, description="Of the cosine, at the start.")
    bias: float = Field(default=-4.6, description="Of the logit, at the start: sigmoid is 0.01.")
    relation: bool = Field(
        default=True, description="Add a learned score of the fused features to the cosine's."
    )
    background: int = Field(
        default=0, ge=0, description="Learned background prototypes that lower logits; 0: none."
    )
    margin: float = Field(
        default=0.2, ge=-1, le=1, description="Cosine to a background prototype that is free."
    )
    conf: float = Field(default=0.05, ge=0, le=1, description="Least score of a prediction.")
    iou: float = Field(default=0.45, ge=0, le=1, description="Overlap that suppresses a box.")
    max_det: int = Field(default=100, ge=1, description="Predictions of an image.")
