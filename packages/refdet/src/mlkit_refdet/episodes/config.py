"""Options of the data `reference-frames`. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mlkit_core.config.fields import Config, RunPath


class ReferenceFramesConfig(Config):
    """Videos or images, and photos of the objects to find in them, as N-way K-shot episodes."""

    root: RunPath = Field(description="Folder of the data set.")
    layout: Literal["auto", "aeroeyes", "coco"] = Field(
        default="auto",
        description="aeroeyes: `samples/<id>/object_images`, `drone_video.mp4` or `frames/`; coco: "
        "a COCO JSON and a folder of reference photos by category; auto looks at the folder.",
    )
    annotations: str | None = Field(
        default=None,
        description="File within root; null: annotations/annotations.json (aeroeyes), "
        "annotations.json (coco).",
    )
    images: str = Field(default="images", description="Of coco: folder of images, within root.")
    references: str = Field(
        default="references", description="Of coco: folder of `<category>/*.{png,jpg}`, in root."
    )
    val_root: RunPath | None = Field(default=None, description="Another data set, to validate on.")
    test_root: RunPath | None = Field(default=None, description="Another data set, for `test`.")
    val_classes: tuple[str, ...] = Field(
        default=(), description="Classes of root that are validated on and never trained on."
    )
    val_fold: tuple[int, int] | None = Field(
        default=None,
        description="[which, of]: validate on classes whose place in sorted order, modulo `of`, is "
        "`which`.",
    )
    test_classes: tuple[str, ...] = Field(default=(), description="Likewise, for the split `test`.")
    guard: int = Field(
        default=5, ge=0, description="Frames beside a labelled one that are no background."
    )
    stride: int = Field(default=1, ge=1, description="Train on every n-th frame of a video.")
    eval_stride: int = Field(default=1, ge=1, description="Evaluate every n-th frame of a video.")
    verify_frames: bool = Field(
        default=False, description="Decode every video once and compare its number of frames."
    )

    n_way: int = Field(
        default=2, ge=1, description="Classes of an episode, of distinct categories."
    )
    n_query: int = Field(default=4, ge=1, description="Labelled frames of each class.")
    asks: int | None = Field(
        default=None,
        ge=1,
        description="Classes that a training frame is searched for: first those it shows, the "
        "episode's before others, then absent ones of the episode; null: all of the episode, "
        "whatever it shows.",
    )
    shots: int = Field(default=3, ge=1, description="Photos of each class, drawn from all it has.")
    episodes: int | None = Field(
        default=None, ge=1, description="Units of an epoch; null: as many as the frames ask for."
    )
    stage: Literal[1, 2, 3] = Field(
        default=2, description="How strongly frames are changed, and how long an epoch is."
    )
    background_ratio: float = Field(
        default=0.3, ge=0, lt=1, description="Share of detection items without an object."
    )
    backgrounds: int | None = Field(
        default=None, ge=0, description="Frames without an object in each episode; overrides."
    )
    bank: bool = Field(
        default=False,
        description="Add photos of all other training classes to the support: prototypes for "
        "contrast that no frame is searched for. Needs an encoder of `asked`.",
    )

    triplet_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Share of triplets among an epoch's items."
    )
    negative_strategy: Literal["background", "cross_class", "mixed"] = Field(
        default="cross_class",
        description="Negatives of triplets: frames without an object, of another category, either.",
    )
    samples_per_class: int | None = Field(
        default=None, ge=1, description="Triplets of each class in an epoch; sets its length."
    )
    triplet_detection: bool = Field(
        default=True, description="Triplets' frames give detection losses, too."
    )
    joint: bool = Field(
        default=True,
        description="Detection items and triplets of a step share one batch of kind `mixed`, and "
        "so one pass over the photos; false: a batch each. Needs triplet_detection.",
    )

    eval_asked: int | Literal["all"] = Field(
        default=1, description="Classes asked of a frame beside those it may show; all: every one."
    )
    eval_episodes: int = Field(
        default=0, ge=0, description="Evaluate this many episodes; 0: every frame, in order."
    )

    query_size: int = Field(default=640, ge=32, description="Side of a frame as input, pixels.")
    support_size: int = Field(default=518, ge=32, description="Side of a photo as input, pixels.")
    support_views: tuple[int, ...] = Field(
        default=(),
        description="Longest sides, in pixels, at which a photo lies on the grey square, each a "
        "shot of its own; empty: it fills the square.",
    )
    support_crop: Literal["photo", "object"] = Field(
        default="photo", description="object: photos are cut to mask or box where there is one."
    )
    query_augment: bool = Field(default=True, description="Change training frames at random.")
    support_augment: Literal["none", "weak", "strong"] = Field(
        default="weak", description="Change photos at random in training; the bank's never are."
    )
    hflip: bool = Field(default=True, description="Mirror images are images of the same object.")
    copy_paste: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="How often a background frame gets an object, cut out of a photo.",
    )
    paste_px: tuple[int, int] = Field(
        default=(16, 100), description="Smallest and largest longest side of it, input pixels."
    )
    frame_cache_mb: int = Field(default=256, ge=0, description="Decoded frames kept, per process.")
    photo_cache_mb: int = Field(default=200, ge=0, description="Photos kept, per process.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if isinstance(self.eval_asked, int) and self.eval_asked < 0:
            raise ValueError(f"eval_asked must be 0 or more, or all, got {self.eval_asked}")
        if self.val_fold is not None and not 0 <= self.val_fold[0] < self.val_fold[1]:
            raise ValueError(f"val_fold must be [which, of], which below of, got {self.val_fold}")
        ways = [bool(self.val_classes), self.val_fold is not None, self.val_root is not None]
        if sum(ways) > 1:
            raise ValueError("val_classes, val_fold and val_root: name one of them")
        if self.test_classes and self.test_root is not None:
            raise ValueError("test_classes and test_root: name one of them")
        if self.samples_per_class is not None:
            if self.triplet_ratio == 0:
                raise ValueError("samples_per_class counts triplets: triplet_ratio is 0")
            if self.episodes is not None:
                raise ValueError("episodes and samples_per_class: name one of them")
        low, high = self.paste_px
        if not 4 <= low <= high:
            raise ValueError(f"paste_px must be two sizes from 4 upwards, got {self.paste_px}")
        if any(not 8 <= view <= self.support_size for view in self.support_views):
            raise ValueError(f"support_views must lie between 8 and {self.support_size}")
        return self
