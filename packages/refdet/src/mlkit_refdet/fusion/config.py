"""Options of refdet's fusion. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Config


class CheafConfig(Config):
    """Fusion of query images with the photos of the classes that they are searched for."""

    on: str | None = Field(default=None, description="Role of the query images.")
    by: str | None = Field(default=None, description="Role of the reference photos.")
    asks: str | None = Field(
        default=None, description="Role that says which classes are asked; null: the one there is."
    )
    dim: int = Field(
        default=256, ge=8, description="Width of embeddings where an encoder gives none itself."
    )
    channels: tuple[int, ...] | None = Field(
        default=None, description="Of the fused maps, fine to coarse; null: the embedding's width."
    )
    heads: int = Field(default=4, ge=1, description="Of the cross-attention.")
    aggregate: Literal["mean", "geomedian", "max", "attention"] = Field(
        default="mean", description="How K shots become a prototype."
    )
    attention: bool = Field(default=True, description="Cross-attention to the photos' tokens.")
    channel: bool = Field(default=True, description="Channel correlation and FiLM.")
    spatial: bool = Field(default=True, description="Maps of cosine with prototype and tokens.")
    pyramid: bool = Field(default=True, description="Exchange between levels.")
