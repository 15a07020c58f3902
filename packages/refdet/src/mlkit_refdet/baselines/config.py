"""Options of the baselines. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mlkit_core.config.fields import Config

SIZES = (16.0, 20.0, 25.0, 32.0, 40.0, 51.0, 64.0, 81.0, 102.0, 128.0)  # a third of an octave apart

Pixels = Annotated[float, Field(ge=4, le=2048)]


class PixelsConfig(Config):
    """The image itself as a map of stride 1."""


class _MatchConfig(Config):
    """What both baselines are asked."""

    on: str | None = Field(default=None, description="Role of the query; null: the one before.")
    by: str | None = Field(
        default=None, description="Role of the reference photos; null: the one that fits."
    )
    sizes: tuple[Pixels, ...] = Field(
        default=SIZES,
        min_length=1,
        description="Longer sides of the object that are tried, input pixels.",
    )
    max_boxes: int = Field(default=50, ge=1, description="Boxes kept of one image and class.")
    nms_iou: float = Field(
        default=0.3, ge=0, le=1, description="Overlap from which the worse of two boxes is dropped."
    )
    min_score: float = Field(default=0.0, ge=0, lt=1, description="Boxes must score higher.")


class TemplateMatchConfig(_MatchConfig):
    """Normalised cross-correlation with cut-outs of the reference photos."""

    template_px: int = Field(
        default=24,
        ge=6,
        le=64,
        description="Longer side of the template; the image is resized to meet it.",
    )
    rotations: int = Field(
        default=8, ge=1, le=36, description="Rotations in the image plane, evenly spaced."
    )
    contrast: bool = Field(
        default=True,
        description="A fainter likeness is less of a match; false: the plain coefficient.",
    )


class PrototypeMatchConfig(_MatchConfig):
    """Cosine of an encoder's maps with the mean feature of the reference photos' foreground."""

    levels: tuple[str, ...] = Field(
        default=(), description="Maps that are compared; none: all that both roles have."
    )
    shots: Literal["mean", "max"] = Field(
        default="mean", description="One prototype for all photos, or the best photo at each cell."
    )
    center: bool = Field(
        default=True, description="Subtract the image's mean feature before the cosine."
    )
    ring: float = Field(
        default=1.8, gt=1, description="Side of the surrounding that is compared, in box sides."
    )
    turned: bool = Field(
        default=True, description="Try the references' aspect ratio and its inverse."
    )
