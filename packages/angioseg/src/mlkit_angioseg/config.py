"""Options of angioseg's components. Nothing here imports torch or numpy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlkit_core.config.fields import Config, RunPath

Norm = Literal["batch", "group"]


class AugmentOptions(Config):
    """Random changes of a training frame; the defaults keep it a true picture of the same view."""

    rotation_deg: float = Field(
        default=15.0, ge=0, le=180, description="In the image plane, ±; it is no change of view."
    )
    log_scale: float = Field(
        default=0.2, ge=0, lt=1.5, description="Natural logarithm of the zoom, ±."
    )
    shift: float = Field(default=0.06, ge=0, le=0.5, description="Share of the side, ±.")
    elastic_px: float = Field(
        default=0.0, ge=0, description="Standard deviation of a smooth warp, input pixels."
    )
    gamma: float = Field(default=0.3, ge=0, description="Natural logarithm of the exponent, ±.")
    contrast: float = Field(default=0.3, ge=0, description="Natural logarithm of the factor, ±.")
    brightness: float = Field(default=0.08, ge=0, le=1, description="Added grey, ±.")
    shading: float = Field(
        default=0.04, ge=0, description="Standard deviation of a smooth added background."
    )
    blur_px: float = Field(default=1.2, ge=0, description="Largest standard deviation of the blur.")
    blur_chance: float = Field(default=0.25, ge=0, le=1, description="Share of blurred frames.")
    noise: float = Field(
        default=0.02, ge=0, description="Largest standard deviation of grey noise, half the frames."
    )
    view_jitter_deg: float = Field(
        default=0.0, ge=0, description="Standard deviation of noise on both angles."
    )
    flips: bool = Field(
        default=False,
        description="Mirror both ways; the primary or secondary angle is negated with it. "
        "A mirrored frame shows a mirrored anatomy, which no patient has.",
    )
    crop: int | None = Field(
        default=None, ge=16, description="Side of a random window, input pixels; null: whole frame."
    )


class AngioFramesConfig(Config):
    """Angiogram frames with vessel masks and C-arm angles."""

    root: RunPath = Field(description="Folder of the data, or the CSV table itself.")
    layout: Literal["auto", "csv", "folder"] = Field(
        default="auto",
        description="csv: table of NPY cines, NPY masks and JSON angles; "
        "folder: images and masks of one name, with an angle table; auto: by what is there.",
    )
    table: str | None = Field(
        default=None, description="The table's name within root; null: the one CSV that is there."
    )
    data_root: RunPath | None = Field(
        default=None, description="What the table's relative paths start from; null: its folder."
    )
    images: str = Field(default="images", description="Image folder within root (folder layout).")
    masks: str = Field(default="masks", description="Mask folder within root (folder layout).")
    valid_masks: str | None = Field(
        default=None,
        min_length=1,
        description="Folder within root with masks of the pixels that count in losses and scores, "
        "named as the images (folder layout); null: all count.",
    )
    mask_source: Literal["manual", "pseudo", "prefer_manual"] = Field(
        default="manual",
        description="vessel_mask_actual_path or mask, deepsa_pseudo_label_path, or the first that "
        "is given; a column mask_source says what the first is.",
    )
    pseudo_weight: float = Field(
        default=1.0, gt=0, description="Worth of a pseudo-labelled frame in the losses."
    )
    classes: tuple[str, ...] = Field(
        default=(),
        max_length=254,
        description="Names of a label map's values from 1; empty: masks of 0 and 1, or 0 and 255.",
    )
    val_patients: tuple[str, ...] = Field(
        default=(), description="Patients of split val; all others train. Overrides the table."
    )
    test_patients: tuple[str, ...] = Field(
        default=(), description="Patients of split test; overrides the table."
    )
    on_missing_angle: Literal["error", "zero", "drop", "learned"] = Field(
        default="error",
        description="error; 0/0, which is a real view; leave the row out; or the view encoder's "
        "learned embedding of 'unknown'.",
    )
    angle_convention: Literal["dicom", "rao_positive"] = Field(
        default="dicom", description="dicom: primary + is LAO; rao_positive: primary + is RAO."
    )
    channel: Literal["grey", "red", "green", "blue"] = Field(
        default="grey", description="Of colour pictures; vessels of a retina stand out in green."
    )
    window: Literal["full", "percentile", "clahe"] = Field(
        default="full",
        description="Grey by bits, stretched from percentile 1 to 99, or with the contrast of each "
        "neighbourhood made alike.",
    )
    bits: int | None = Field(
        default=None, ge=8, le=16, description="Bits stored; null: all bits of the file's type."
    )
    size: int = Field(default=512, ge=16, description="Longest side of the input, pixels.")
    augment: bool | AugmentOptions = Field(
        default=True, description="true: the defaults; false: none; or options."
    )


class ViewAngleConfig(Config):
    """Encoder of the C-arm's two angles."""

    dim: int = Field(default=256, ge=4, description="Width of vector and tokens.")
    encoding: Literal["sinusoidal", "unit-vector", "categorical"] = Field(
        default="sinusoidal",
        description="Learned frequencies, the beam's direction in space, or a code for each bin.",
    )
    primary_edges_deg: tuple[float, ...] = Field(
        default=(-10.0, 10.0), description="categorical: between RAO, AP and LAO."
    )
    secondary_edges_deg: tuple[float, ...] = Field(
        default=(-10.0, 10.0), description="categorical: between CAU, straight and CRA."
    )
    frequencies: int = Field(default=32, ge=1, description="Number of learned frequencies.")
    lowest: float = Field(default=0.5, gt=0, description="Lowest frequency, cycles per turn.")
    highest: float = Field(default=8.0, gt=0, description="Highest frequency, cycles per turn.")
    tokens: int = Field(default=4, ge=4, description="Tokens for cross-attention.")


class SamConfig(Config):
    """Image encoder of Segment Anything, or of MedSAM."""

    variant: Literal["vit_b", "vit_l", "vit_h", "tiny"] = Field(
        default="vit_b", description="Of the ViT; tiny has no published weights."
    )
    image_size: int = Field(
        default=1024, ge=16, description="Side of the input, pixels, a multiple of 16."
    )
    blocks: tuple[int, ...] = Field(
        default=(), description="Blocks whose hidden state is published beside the neck's map."
    )
    normalize: Literal["sam", "medsam"] = Field(
        default="sam", description="SAM's mean and deviation, or each image stretched to 0..1."
    )
    checkpointing: bool = Field(
        default=False, description="Compute blocks again in the backward pass, for less memory."
    )


class Sam3Config(Config):
    """Vision tower of SAM 3."""

    image_size: int = Field(
        default=1008, ge=28, description="Side of the input, pixels, a multiple of 28."
    )
    levels: tuple[str, ...] = Field(
        default=("fpn0", "fpn1", "fpn2", "fpn3"), description="Maps to publish, fine to coarse."
    )
    width: int = Field(default=1024, ge=8, description="Of the ViT; others have no weights.")
    depth: int = Field(default=32, ge=1, description="Blocks; others have no weights.")
    heads: int = Field(default=16, ge=1, description="Attention heads.")
    fpn_width: int = Field(default=256, ge=8, description="Channels of the maps.")


class GreyConfig(Config):
    """Grey values as they are; there is nothing to set."""


class ConvStemConfig(Config):
    """Two convolutions on the pixels, for detail that a strided encoder loses."""

    dim: int = Field(default=16, ge=4, description="Channels.")
    stride: Literal[1, 2] = Field(default=1, description="1 keeps the full resolution.")
    norm: Norm = Field(default="batch", description="group for batches below 4.")
    mean: float = Field(default=0.45, ge=0, le=1, description="Grey that becomes 0.")
    std: float = Field(default=0.15, gt=0, description="Grey step that becomes 1.")


class ConvMaskConfig(Config):
    """Mask from one map: two convolutions, then bilinear to the input's size."""

    on: str | None = Field(default=None, description="Role to read; null: the one written last.")
    level: str | None = Field(default=None, description="Map to read; null: the finest.")
    dim: int = Field(
        default=256, ge=4, description="Width that the map is projected to, if it differs."
    )
    hidden: tuple[int, int] = Field(default=(128, 64), description="Widths of the convolutions.")
    norm: Norm = Field(default="batch", description="group for batches below 4.")


class FpnMaskConfig(Config):
    """Mask from all maps, merged from coarse to fine."""

    on: str | None = Field(default=None, description="Role to read; null: the one written last.")
    stem: str | None = Field(
        default=None, description="Role with finer maps of the same input, such as conv-stem."
    )
    merge: Literal["add", "concat"] = Field(
        default="add", description="Add as a feature pyramid does, or join as a U-Net does."
    )
    widths: tuple[int, ...] | None = Field(
        default=None, description="Channels for each level, fine to coarse; null: by stride."
    )
    norm: Norm = Field(default="batch", description="group for batches below 4.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Of whole channels of the coarsest level."
    )


class UNetMaskConfig(Config):
    """Mask by U-Net's decoder."""

    on: str | None = Field(default=None, description="Role to read; null: the one written last.")
    stem: str | None = Field(
        default=None, description="Role with finer maps of the same input, such as conv-stem."
    )
    widths: tuple[int, ...] | None = Field(
        default=None,
        description="Channels of each step, from the input's size on; null: 16, 32, … 256.",
    )
    norm: Norm = Field(default="batch", description="group for batches below 4.")


class FrangiConfig(Config):
    """Ridges of dark vessels by Frangi's filter; nothing is trained."""

    on: str | None = Field(default=None, description="Role to read: pixels of encoder grey.")
    widths_px: tuple[float, ...] = Field(
        default=(3.0, 4.0, 5.0),
        description="Standard deviations of the ridges that are looked for, input pixels.",
    )
    shutter: float = Field(
        default=0.8,
        ge=0,
        lt=1,
        description="Rows and columns from the border inward with less than this share of the "
        "usual grey are under a collimator and hold no vessel; 0: none are.",
    )
    gamma: float | None = Field(
        default=0.02,
        gt=0,
        description="Strength of structure that counts as half, in grey values 0..1; null: half of "
        "each image's greatest.",
    )
    level: float = Field(
        default=0.005, gt=0, description="Vesselness that counts as probability one half."
    )


class ClDiceLossConfig(Config):
    """Soft centreline Dice; use it beside Dice or cross-entropy."""

    iterations: int = Field(
        default=3, ge=1, description="Of the skeleton: half the widest vessel, input pixels."
    )
    smooth: float = Field(default=1.0, gt=0, description="Added to both sums, in pixels.")


class TverskyLossConfig(Config):
    """Tversky loss: false alarms and misses weighed apart."""

    alpha: float = Field(default=0.3, gt=0, description="Worth of a false alarm.")
    beta: float = Field(default=0.7, gt=0, description="Worth of a miss.")
    gamma: float = Field(default=1.0, gt=0, description="Below 1: the focal Tversky loss.")
    smooth: float = Field(default=1.0, gt=0, description="Added to both sums, in pixels.")


class MaskOverlapConfig(Config):
    """Scores of binary masks, for each image at its original resolution."""

    threshold: float = Field(default=0.5, gt=0, lt=1, description="Probability that is vessel.")
    resamples: int = Field(
        default=1000, ge=0, description="Of the patient bootstrap; 0: no intervals."
    )
    seed: int = Field(default=0, ge=0, description="Of the bootstrap.")
