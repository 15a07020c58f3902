"""Options of cluster's components. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Component, Config, RunPath


class ImageFolderConfig(Config):
    """Images of a folder, a list or a data set, with YOLO or COCO labels if there are any."""

    source: RunPath = Field(
        description="Folder of images (with its sub-folders), .txt list, data set .yaml, or image."
    )
    labels: Literal["auto", "none", "yolo", "coco"] = Field(
        default="auto",
        description="auto: coco where `annotations` is given, yolo where text files are found; "
        "none: images alone.",
    )
    annotations: RunPath | None = Field(default=None, description="COCO's JSON.")
    label_folder: str = Field(
        default="labels",
        min_length=1,
        description="What takes the place of `images` in a YOLO label's path: labels, labels_seg.",
    )
    classes: tuple[str, ...] | None = Field(
        default=None,
        description="Names by number, to which labels are matched by name; null: the labels' own.",
    )
    image_size: int = Field(default=640, ge=32, description="Side of the square input, pixels.")


class YoloExtractorConfig(Config):
    """What a YOLO says of each image: embedding, maps, detections, losses and metrics."""

    model: RunPath = Field(description="An ultralytics checkpoint (.pt) for boxes or masks.")
    image_size: int = Field(default=640, ge=32, description="Side of the square input, pixels.")
    conf: float = Field(
        default=0.25, ge=0, le=1, description="Detections are more confident than this."
    )
    iou: float = Field(
        default=0.45, ge=0, le=1, description="Overlap beyond which a weaker box is dropped."
    )
    max_det: int = Field(default=300, ge=1, description="Most detections of an image.")
    target_conf: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Least confidence of a detection that is a target of distances.",
    )
    maps: Literal["none", "grid4", "full16"] = Field(
        default="grid4",
        description="What is kept of the maps that enter the head, in float16: nothing, their "
        "means over a 4 x 4 grid, or all.",
    )
    device: str = Field(default="auto", description="cpu, cuda:0, …; auto takes a GPU if any.")
    supercategories: RunPath | None = Field(
        default=None, description="YAML, group to list of classes; null: COCO's twelve."
    )


class EmbeddingExtractorConfig(Config):
    """The pooled vector of any encoder, for each image."""

    encoder: Component("encoder") = Field(description="For images, with a pooled vector.")  # pyright: ignore[reportInvalidTypeForm]
    weights: str | None = Field(
        default=None,
        description="auto (published ones), a path, hf:owner/repo/file, or none (random); null: "
        "auto where there are published ones.",
    )
    device: str = Field(default="auto", description="cpu, cuda:0, …; auto takes a GPU if any.")
    batch_size: int = Field(default=16, ge=1, description="Images in one forward pass.")


class UltralyticsTrainerConfig(Config):
    """Fine-tunes a YOLO by ultralytics' own loop."""

    model: str = Field(
        description="A checkpoint to fine-tune, or a configuration as yolov8n.yaml (random start)."
    )
    epochs: int = Field(default=100, ge=1, description="Over the training split.")
    batch_size: int = Field(default=16, ge=1, description="Images in a step.")
    image_size: int = Field(default=640, ge=32, description="Side of the square input, pixels.")
    device: str = Field(default="auto", description="cpu, cuda:0, …; auto takes a GPU if any.")
    workers: int = Field(default=2, ge=0, description="Processes that load images.")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Further arguments of ultralytics' train, by its own names, as lr0.",
    )
