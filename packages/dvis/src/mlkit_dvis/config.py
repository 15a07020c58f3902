"""Options of dvis' components. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mlkit_core.config.fields import Config, RunPath


class VideoInstancesConfig(Config):
    """Head of video instances: how a whole video is read out."""

    on: str | None = Field(default=None, description="Role to read; null: the one written last.")
    max_tracks: int = Field(default=20, ge=1, description="Results of a video.")
    noise_frames: int = Field(
        default=5,
        ge=1,
        description="Without a refiner: shorter tracks are dropped unless they reach the end.",
    )
    chunk: int = Field(default=120, ge=2, description="Frames that the refiner sees at once.")
    overlap: int = Field(
        default=40, ge=0, description="Frames that two chunks of a longer video share."
    )


class TrackHotaConfig(Config):
    """HOTA of the tracks that score well enough."""

    score: float = Field(default=0.3, ge=0, le=1, description="From which a track counts.")


class SetLossConfig(Config):
    """Set criterion of a segmenter's frames or a refiner's clips."""

    on: str | None = Field(default=None, description="Role to read; null: the only one that fits.")
    points: int = Field(default=12544, ge=1, description="Points at which a frame's mask is read.")
    oversample: float = Field(default=3.0, ge=1, description="Candidates per point of the loss.")
    importance: float = Field(
        default=0.75, ge=0, le=1, description="Share of points that are the most uncertain ones."
    )
    class_weight: float = Field(default=2.0, ge=0, description="Of the class, in loss and cost.")
    mask_weight: float = Field(default=5.0, ge=0, description="Of masks' cross-entropy, likewise.")
    dice_weight: float = Field(default=5.0, ge=0, description="Of masks' Dice, likewise.")
    no_object_weight: float = Field(
        default=0.1, ge=0, description="Class weight of queries without instance."
    )


class ReidLossConfig(Config):
    """Losses that make an instance's ReID embeddings alike over frames."""

    on: str | None = Field(default=None, description="Role of the segmenter; null: the only one.")
    contrastive_weight: float = Field(default=2.0, ge=0, description="Of the contrastive loss.")
    aux_weight: float = Field(default=3.0, ge=0, description="Of the cosines' squared error.")
    negatives: int = Field(default=99, ge=1, description="Other queries to compare with.")
    memory_chance: float = Field(
        default=0.5, ge=0, le=1, description="How often the positive is the running mean."
    )
    points: int = Field(
        default=12544, ge=1, description="Of a mask, in matching; as in frame-set to share it."
    )
    match_weights: tuple[float, float, float] = Field(
        default=(2.0, 5.0, 5.0), description="Of class, cross-entropy and Dice in matching."
    )


class DaqTrackerConfig(Config):
    """Tracker: queries that are handed from frame to frame."""

    on: str | None = Field(default=None, description="Role of the segmenter; null: the last one.")
    num_queries: int = Field(default=100, ge=1, description="Of the segmenter; anchors alike.")
    layers: int = Field(default=6, ge=1, description="Of the tracker, and of its slot branch.")
    heads: int = Field(default=8, ge=1, description="Attention heads.")
    feedforward: int = Field(default=2048, ge=1, description="Width within feed-forward layers.")
    num_slots: int = Field(default=5, ge=1, description="Learned background slots.")
    training_select_threshold: float = Field(
        default=0.1, ge=0, le=1, description="In training, score above which a row is handed on."
    )
    inference_select_threshold: float = Field(
        default=0.1, ge=0, le=1, description="Score above which a track is seen, or born."
    )
    aux_inference_select_threshold: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Segmenter's score above which a query of the first frame begins a track.",
    )
    kick_out_frame_num: int = Field(
        default=8, ge=1, description="Frames in a row without being seen that end a track."
    )
    keep_threshold: float = Field(
        default=0.01, ge=0, le=1, description="With ovis_infer: slot score that a track needs."
    )
    ovis_infer: bool = Field(
        default=False, description="Whether the slot branch has a say about tracks."
    )
    eval_mode: Literal["inference", "offline"] = Field(
        default="inference",
        description="With ovis_infer, the slot branch's say; offline before a refiner.",
    )
    switch_at: int = Field(
        default=0, ge=0, description="Iteration from which whole clips are learned (stage 3)."
    )
    sub_clip: int = Field(default=2, ge=2, description="Frames of a clip before that (stage 2).")
    points: int = Field(default=12544, ge=1, description="At which masks are matched.")


class TrackerSetConfig(SetLossConfig):
    """Set criterion of the tracker and its slot branch."""

    slot_weight: float = Field(
        default=1.0, ge=0, description="Of the slot branch, times the weights of its parts."
    )


class VideoClipsConfig(Config):
    """Clips of annotated videos (YouTube-VIS JSON), and images as pseudo-videos."""

    annotations: RunPath | None = Field(
        default=None,
        description="YouTube-VIS JSON of the training videos; `mlkit dvis import` makes one.",
    )
    frames: RunPath | None = Field(
        default=None,
        description="Folder that its file names start from; null: `frames` beside the JSON.",
    )
    val_annotations: RunPath | None = Field(default=None, description="JSON of split val.")
    val_frames: RunPath | None = Field(default=None, description="Null: as for training.")
    val_videos: tuple[str, ...] = Field(
        default=(), description="Instead: videos of the training file, held out for val."
    )
    test_annotations: RunPath | None = Field(default=None, description="JSON of split test.")
    test_frames: RunPath | None = Field(default=None, description="Null: as for training.")
    test_videos: tuple[str, ...] = Field(default=(), description="Held out for test, likewise.")
    classes: tuple[str, ...] = Field(
        default=(), description="Names, by label; empty: the training file's categories."
    )
    pseudo_annotations: RunPath | None = Field(
        default=None, description="COCO JSON of images that become pseudo-videos."
    )
    pseudo_images: RunPath | None = Field(
        default=None, description="Folder of these images; null: that of the JSON."
    )
    pseudo_ratio: float = Field(
        default=0.5, ge=0, le=1, description="Share of pseudo-videos among the clips."
    )
    num_frames: int = Field(default=5, ge=1, description="Frames of a training clip.")
    frame_range: int = Field(
        default=2,
        ge=0,
        description="Largest distance from the reference frame; contiguous where twice this plus "
        "one is num_frames.",
    )
    reverse: float = Field(default=0.0, ge=0, le=1, description="How often a clip runs backwards.")
    clips_per_epoch: int | None = Field(
        default=None, ge=1, description="Null: by videos, repeat and pseudo_ratio."
    )
    repeat: int = Field(default=1, ge=1, description="Clips of each video in an epoch.")
    augment: bool = Field(
        default=True,
        description="Random size, crop and flip; false: as in evaluation, pseudo-videos excepted.",
    )
    short_sides: tuple[int, ...] = Field(
        default=(320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640),
        min_length=1,
        description="Shorter side of a training clip, pixels; one is drawn.",
    )
    max_train_size: int = Field(default=768, ge=16, description="Of the longer side in training.")
    train_size: tuple[int, int] | None = Field(
        default=None,
        description="Height and width: clips that exceed it are scaled down, all are padded to it.",
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="How often clips are mirrored.")
    crop: float = Field(default=0.5, ge=0, le=1, description="How often a crop comes first.")
    crop_sides: tuple[int, ...] = Field(
        default=(400, 500, 600), min_length=1, description="Shorter side before the crop."
    )
    crop_range: tuple[int, int] = Field(
        default=(384, 600), description="Smallest and largest side of the crop."
    )
    rotation_deg: float = Field(default=15.0, ge=0, le=90, description="Of pseudo-videos, ±.")
    size: int = Field(default=480, ge=16, description="Shorter side in evaluation, pixels.")
    max_size: int = Field(default=1333, ge=16, description="Of the longer side in evaluation.")
    window: int = Field(default=5, ge=1, description="Frames at once in evaluation.")
    stride: int = Field(default=1, ge=1, description="Every nth frame of opened videos is taken.")

    @model_validator(mode="after")
    def _one_source_for_a_split(self) -> Self:
        for split, file, videos in (
            ("val", self.val_annotations, self.val_videos),
            ("test", self.test_annotations, self.test_videos),
        ):
            if file is not None and videos:
                raise ValueError(f"{split}_annotations and {split}_videos exclude each other")
        both = sorted({*self.val_videos} & {*self.test_videos})
        if both:
            raise ValueError(f"video {both[0]!r} is in both val_videos and test_videos")
        return self

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        low, high = self.crop_range
        if not 1 <= low <= high:
            raise ValueError(f"crop_range: expected smallest and largest side, got {low}, {high}")
        sides = (*self.short_sides, *self.crop_sides, *(self.train_size or ()))
        if min(sides) < 16:
            raise ValueError(f"short_sides, crop_sides, train_size: 16 at least, got {min(sides)}")
        return self


class Mask2FormerConfig(Config):
    """Segmenter of single frames."""

    backbone: str = Field(
        default="resnet50",
        description="resnet50, swin-tiny, swin-small, swin-base, swin-large, vit-adapter, or "
        "timm:<model> with maps at strides 4 to 32.",
    )
    vit_adapter: dict[str, Any] | None = Field(
        default=None, description="Of vit-adapter: arguments in the place of ViT-L's."
    )
    pixel_decoder: Literal["deformable", "fpn"] = Field(
        default="deformable", description="As published, or a feature pyramid for small models."
    )
    norm: Literal["batch", "frozen"] = Field(
        default="batch", description="frozen: batch norms of the backbone stay constant."
    )
    dim: int = Field(default=256, ge=4, description="Width of maps and queries.")
    mask_dim: int = Field(default=256, ge=4, description="Channels of the mask features.")
    num_queries: int = Field(default=100, ge=1, description="Objects that a frame may have.")
    encoder_layers: int = Field(default=6, ge=1, description="Of the deformable pixel decoder.")
    encoder_feedforward: int = Field(default=1024, ge=1, description="Width within them.")
    decoder_layers: int = Field(default=9, ge=1, description="Of the transformer decoder.")
    heads: int = Field(default=8, ge=1, description="Attention heads.")
    feedforward: int = Field(default=2048, ge=1, description="Width in the decoder's layers.")
    reid_dim: int = Field(default=256, ge=0, description="Of the ReID embeddings; 0: none.")


class TemporalRefinerConfig(Config):
    """Refiner of whole clips."""

    on: str | None = Field(default=None, description="Role of the tracks; null: written last.")
    by: str | None = Field(default=None, description="Role of the segmenter; null: the only one.")
    layers: int = Field(default=6, ge=1, description="Of the refiner.")
    heads: int = Field(default=8, ge=1, description="Attention heads.")
    feedforward: int = Field(default=2048, ge=1, description="Width in its layers.")
    windows: int = Field(default=3, ge=1, description="Frames whose masks are made at once.")
    use_local_attn: bool = Field(default=False, description="Convolutions over 7 frames.")
    time_encoding: Literal["none", "sine"] = Field(
        default="none", description="sine: attention over time sees the order of frames."
    )
    amplify_change: bool = Field(
        default=False, description="Rows are joined by what changes in them, at its own scale."
    )
    noise_frames: int = Field(
        default=5, ge=1, description="Shorter tracks are dropped unless they reach the end."
    )
    topk_tracks: int = Field(default=40, ge=1, description="Tracks that are kept at most.")
    num_rows: int = Field(
        default=100,
        ge=1,
        description="Rows in all: as many as the segmenter has queries, and never more.",
    )
