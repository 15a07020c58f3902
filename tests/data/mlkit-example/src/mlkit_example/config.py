"""Options of this plugin's components. Importing it loads no torch."""

from __future__ import annotations

from pydantic import Field

from mlkit_core import Config


class HaarPyramidConfig(Config):
    """Options of the encoder `haar-pyramid`."""

    depth: int = Field(
        default=4, ge=1, le=6, description="Scales; the coarsest has stride 2^depth."
    )
    dim: int = Field(default=32, ge=1, description="Channels of every map.")


class TverskyLossConfig(Config):
    """Options of the loss `tversky`."""

    missed: float = Field(default=0.7, gt=0, lt=1, description="Price of a missed pixel.")
    smooth: float = Field(default=1.0, gt=0, description="Added above and below, in pixels.")
