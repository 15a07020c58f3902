"""Options of refdet's encoders. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Config, RunPath


class YoloConfig(Config):
    """YOLOv8's backbone and neck, and a projection for each level."""

    variant: Literal["n", "s", "m", "l", "x"] = Field(default="n", description="Of YOLOv8.")
    taps: Literal["identity", "pan"] = Field(
        default="identity",
        description="identity joins early layers, which tell objects apart, with the neck's; pan: "
        "the neck alone.",
    )
    folded: bool = Field(
        default=False,
        description="Whether BatchNorm is folded into convolutions; weights that have it apart are "
        "folded, those that have it folded need this.",
    )
    dim: int = Field(default=256, ge=8, description="Width of the shared embedding.")
    calibration: RunPath | None = Field(
        default=None,
        description="Folder of photos that channels are scaled by when weights are loaded; null: "
        "pictures that come with scikit-image. Photos of one's own kind are better.",
    )


class YoloReferenceConfig(YoloConfig):
    """The same trunk for reference photos: prototypes and tokens of their foreground."""

    tokens: int = Field(default=4, ge=1, description="Tokens of a photo: this squared.")


class VitReferenceConfig(Config):
    """A plain ViT of timm (DINOv2) for reference photos: prototypes and tokens of blocks."""

    model: str = Field(
        default="vit_small_patch14_dinov2.lvd142m", description="timm's name of a plain ViT."
    )
    image_size: int | None = Field(
        default=None, ge=14, description="Side that it is built for; null: the model's own."
    )
    blocks: tuple[int, int, int] = Field(
        default=(5, 8, 11), description="Blocks whose patches stand for p3, p4 and p5."
    )
    dim: int = Field(default=256, ge=8, description="Width of the shared embedding.")
    tokens: int = Field(default=4, ge=1, description="Tokens of a photo: this squared.")
