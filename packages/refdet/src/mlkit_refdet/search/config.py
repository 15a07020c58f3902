"""How frames are searched, and how their detections become tracks. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mlkit_core.config.fields import Config

Tiles = Literal["auto", "off"] | Annotated[int, Field(ge=32)]


class TrackOptions(Config):
    """How detections of single frames become intervals of one object."""

    high: float = Field(default=0.25, ge=0, le=1, description="A track needs one such score.")
    low: float = Field(default=0.1, ge=0, le=1, description="Scores below it are left out.")
    min_iou: float = Field(
        default=0.2, ge=0, le=1, description="Overlap with the predicted box that goes on."
    )
    buffer: float = Field(
        default=0.5,
        ge=0,
        description="Share of its sides by which a box grows on each side before overlaps count.",
    )
    max_gap: int = Field(default=8, ge=0, description="Frames without a box that are bridged.")
    min_frames: int = Field(default=3, ge=1, description="Shorter tracks are dropped as blips.")


class SearchOptions(Config):
    """How a frame is searched."""

    conf: float = Field(default=0.02, ge=0, le=1, description="Least score of a detection.")
    tiles: Tiles = Field(
        default="auto",
        description="Side, in pixels of the frame, of the tiles that are searched beside the whole "
        "frame; auto: the model's input, where the frame is more than 1.5 times as large.",
    )
    overlap: float = Field(default=0.2, ge=0, lt=0.9, description="Of neighbouring tiles.")
    stride: int = Field(default=1, ge=1, description="Search every n-th frame.")
    batch: int = Field(default=4, ge=1, description="Frames or tiles that are searched at once.")
