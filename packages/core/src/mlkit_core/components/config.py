"""Options of the general components."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mlkit_core.config.fields import Config

Share = Annotated[float, Field(ge=0, le=1)]


class TimmEncoderConfig(Config):
    """Options of the encoder `timm`."""

    model: str = Field(description="timm's name, with or without a tag: resnet18.a1_in1k")
    out_indices: tuple[int, ...] | None = Field(
        None, description="stages to publish; all where strides differ, else the last block"
    )
    image_size: PositiveInt | None = Field(
        None, description="side in pixels that a ViT is built for; the model's own by default"
    )
    normalize: Literal["model", "none"] = Field(
        "model", description="the model's own mean and deviation, or RGB 0..1 as it comes"
    )


class NoFusionConfig(Config):
    """Options of the fusion `none`."""

    on: str | None = Field(None, description="role to pass through; the one written last")


class FiLMConfig(Config):
    """Options of the fusion `film`."""

    on: str | None = Field(None, description="role to condition; the one written last")
    by: str | None = Field(None, description="role whose vector conditions")
    dim: PositiveInt | None = Field(None, description="project to this width first; None: keep")
    hidden: PositiveInt | None = Field(None, description="width of a hidden layer; None: linear")
    pool: bool = Field(False, description="average `by` over its lead, to one row")


class CrossAttentionConfig(Config):
    """Options of the fusion `cross-attention`."""

    on: str | None = Field(None, description="role whose map positions ask; the one written last")
    by: str | None = Field(None, description="role whose tokens (or vector) answer")
    levels: tuple[str, ...] | None = Field(None, description="map levels that ask; None: all")
    dim: PositiveInt = Field(256, description="width of the attention, over all heads")
    heads: PositiveInt = Field(8, description="attention heads; must divide dim")
    num_tokens: Annotated[int, Field(ge=4)] = Field(4, description="tokens made out of a vector")
    pool: bool = Field(False, description="average `by` over its lead, to one row")


class BceLossConfig(Config):
    """Options of the loss `bce`."""

    pos_weight: PositiveFloat = Field(1.0, description="worth of a foreground pixel")


class DiceLossConfig(Config):
    """Options of the loss `dice`."""

    smooth: PositiveFloat = Field(1.0, description="added to both sums, in pixels")


class FocalLossConfig(Config):
    """Options of the loss `focal`."""

    gamma: NonNegativeFloat = Field(2.0, description="how fast right pixels lose their worth")
    alpha: Share | None = Field(0.25, description="worth of foreground; 1 - alpha: background")
