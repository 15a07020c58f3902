"""Options of refdet's metrics. Nothing here imports torch or numpy."""

from __future__ import annotations

from pydantic import Field

from mlkit_core.config.fields import Config


class BoxMapConfig(Config):
    """Average precision of boxes, as COCO has it."""

    max_boxes: int = Field(
        default=100, ge=10, description="Boxes that count of one image and class, best first."
    )


class FalseAlarmsConfig(Config):
    """What is reported where the asked object is not."""

    iou: float = Field(default=0.5, gt=0, lt=1, description="Overlap from which a box is a hit.")


class StIouConfig(Config):
    """Overlap of found and true boxes over the frames of a video."""

    threshold: float = Field(
        default=0.25, ge=0, le=1, description="Score from which a frame's best box counts."
    )


class FewShotConfig(Config):
    """Average precision over episodes."""

    novel: tuple[str, ...] = Field(
        default=(), description="Classes never seen in training; the others are base classes."
    )
    max_boxes: int = Field(
        default=100, ge=10, description="Boxes that count of one image and class, best first."
    )
