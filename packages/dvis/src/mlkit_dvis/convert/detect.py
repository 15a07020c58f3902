"""What an official checkpoint holds, read from the names and shapes of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

Family = Literal["resnet", "swin", "vit-adapter"]
_POINTS = 4  # that a head of deformable attention reads on each level
_COORDINATES = 3 * _POINTS * 2  # of a head of deformable attention: levels, points, x and y
_VIT_STAGES = 4
_HEAD_WIDTH = 64  # of DINOv2's attention at every size
_FIRST_KEY: tuple[tuple[str, Family], ...] = (
    ("backbone.stem.conv1.weight", "resnet"),
    ("backbone.patch_embed.proj.weight", "swin"),
    ("backbone.vit_module.patch_embed.proj.weight", "vit-adapter"),
)


@dataclass(frozen=True, kw_only=True)
class SegmenterShape:
    """Sizes of `sem_seg_head`.

    `heads` are the pixel decoder's, which no other tensor tells; `reid_dim` is 0 without a ReID
    head.
    """

    num_classes: int
    num_queries: int
    dim: int
    mask_dim: int
    heads: int
    encoder_layers: int
    encoder_ffn: int
    decoder_layers: int
    ffn: int
    reid_dim: int


@dataclass(frozen=True, kw_only=True)
class TrackerShape:
    """Sizes of `tracker`."""

    num_classes: int
    dim: int
    mask_dim: int
    ffn: int
    layers: int
    num_slots: int


@dataclass(frozen=True, kw_only=True)
class RefinerShape:
    """Sizes of `refiner`."""

    num_classes: int
    dim: int
    mask_dim: int
    ffn: int
    layers: int
    use_local_attn: bool


@dataclass(frozen=True, kw_only=True)
class BackboneShape:
    """Sizes of `backbone`.

    Args:
        family: Of its layout.
        depths: Blocks of each stage.
        width: Channels of the stem (ResNet), of the first stage (Swin), of the tokens (ViT).
        window: Of a Swin's attention, in patches.
        heads: Of a Swin's stages.
        vit_adapter: Of a ViT-Adapter: the keywords of `ViTAdapter`.
    """

    family: Family
    depths: tuple[int, ...]
    width: int
    window: int = 0
    heads: tuple[int, ...] = ()
    vit_adapter: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What a checkpoint holds; None where a part is absent."""

    segmenter: SegmenterShape
    backbone: BackboneShape | None = None
    tracker: TrackerShape | None = None
    refiner: RefinerShape | None = None


def detect(state: Mapping[str, Tensor]) -> Detected:
    """Return what a checkpoint holds.

    Raises:
        WeightsError: A tensor that tells is missing or not shaped as it must be, or parts
            contradict each other.
    """
    found = Detected(
        segmenter=detect_segmenter(state),
        backbone=_backbone(state),
        tracker=_tracker(state) if _holds(state, "tracker.") else None,
        refiner=_refiner(state) if _holds(state, "refiner.") else None,
    )
    if found.refiner is not None and found.tracker is None:
        raise WeightsError("the checkpoint has a refiner, but no tracker for it to refine")
    for name, part in (("tracker", found.tracker), ("refiner", found.refiner)):
        if part is not None and part.num_classes != found.segmenter.num_classes:
            own, others = part.num_classes, found.segmenter.num_classes
            raise WeightsError(f"the {name} has {own} classes, the segmenter {others}")
    return found


def detect_segmenter(state: Mapping[str, Tensor]) -> SegmenterShape:
    """Return the sizes of `sem_seg_head`."""
    pixel, predictor = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    encoder, reid = f"{pixel}.transformer.encoder.layers", f"{predictor}.reid_embed.layers.2.weight"
    queries, dim = _shape(state, f"{predictor}.query_feat.weight", 2)
    return SegmenterShape(
        num_classes=_shape(state, f"{predictor}.class_embed.weight", 2)[0] - 1,
        num_queries=queries,
        dim=dim,
        mask_dim=_shape(state, f"{pixel}.mask_features.weight", 4)[0],
        heads=_shape(state, f"{encoder}.0.self_attn.sampling_offsets.weight", 2)[0] // _COORDINATES,
        encoder_layers=count(state, encoder),
        encoder_ffn=_shape(state, f"{encoder}.0.linear1.weight", 2)[0],
        decoder_layers=count(state, f"{predictor}.transformer_ffn_layers"),
        ffn=_shape(state, f"{predictor}.transformer_ffn_layers.0.linear1.weight", 2)[0],
        reid_dim=_shape(state, reid, 2)[0] if reid in state else 0,
    )


def _tracker(state: Mapping[str, Tensor]) -> TrackerShape:
    outputs, dim = _shape(state, "tracker.class_embed.weight", 2)
    return TrackerShape(
        num_classes=outputs - 1,
        dim=dim,
        mask_dim=_shape(state, "tracker.mask_feature_proj.weight", 4)[0],
        ffn=_shape(state, "tracker.transformer_ffn_layers.0.linear1.weight", 2)[0],
        layers=count(state, "tracker.transformer_ffn_layers"),
        num_slots=_shape(state, "tracker.bg_slots.weight", 2)[0],
    )


def _refiner(state: Mapping[str, Tensor]) -> RefinerShape:
    outputs, dim = _shape(state, "refiner.class_embed.weight", 2)
    return RefinerShape(
        num_classes=outputs - 1,
        dim=dim,
        mask_dim=_shape(state, "refiner.mask_embed.layers.2.weight", 2)[0],
        ffn=_shape(state, "refiner.transformer_ffn_layers.0.linear1.weight", 2)[0],
        layers=count(state, "refiner.transformer_ffn_layers"),
        use_local_attn=_holds(state, "refiner.conv_"),
    )


def _backbone(state: Mapping[str, Tensor]) -> BackboneShape | None:
    if not _holds(state, "backbone."):
        return None
    telling = [(key, family) for key, family in _FIRST_KEY if key in state]
    if not telling:
        had = next(key for key in state if key.startswith("backbone."))
        hint = "known are detectron2's ResNet and Swin, and the ViT-Adapter"
        raise WeightsError(f"no known backbone: it has a key {had!r}", hint=hint)
    key, family = telling[0]
    width = len(state[key])
    if family == "vit-adapter":
        return _vit_adapter(state, width)
    if family == "resnet":
        depths = tuple(count(state, f"backbone.res{stage}") for stage in range(2, 6))
        return BackboneShape(family=family, depths=depths, width=width)
    return _swin(state, width)


def _vit_adapter(state: Mapping[str, Tensor], width: int) -> BackboneShape:
    """Return sizes; heads and stages, which no tensor tells, are as in every published ViT."""
    depth = count(state, "backbone.vit_module.blocks")
    share, odd = divmod(depth, _VIT_STAGES)
    if odd:
        raise WeightsError(f"a ViT of {depth} blocks has no {_VIT_STAGES} equal stages")
    block = "backbone.vit_module.blocks.0.mlp.fc1.weight"
    extractor = "backbone.interactions.0.extractor"
    rows = _shape(state, "backbone.vit_module.pos_embed", 3)[1]
    patch = _shape(state, "backbone.vit_module.patch_embed.proj.weight", 4)[-1]
    reads = _shape(state, f"{extractor}.attn.attention_weights.weight", 2)[0]
    keywords = {
        "embed_dim": width,
        "depth": depth,
        "vit_heads": max(1, width // _HEAD_WIDTH),
        "mlp_ratio": _shape(state, block, 2)[0] / width,
        "pretrain_img_size": round((rows - 1) ** 0.5) * patch,
        "conv_inplane": _shape(state, "backbone.spm.stem.0.weight", 4)[0],
        "deform_heads": reads // _POINTS,
        "n_points": _POINTS,
        "cffn_ratio": _shape(state, f"{extractor}.ffn.fc1.weight", 2)[0] / width,
        "interaction_indexes": [[i * share, (i + 1) * share - 1] for i in range(_VIT_STAGES)],
        "patch_size": patch,
    }
    return BackboneShape(
        family="vit-adapter", depths=(share,) * _VIT_STAGES, width=width, vit_adapter=keywords
    )


def _swin(state: Mapping[str, Tensor], width: int) -> BackboneShape:
    stages = range(count(state, "backbone.layers"))
    table = "backbone.layers.{}.blocks.0.attn.relative_position_bias_table"
    shapes = [_shape(state, table.format(stage), 2) for stage in stages]
    side = round(shapes[0][0] ** 0.5)  # 2 * window - 1
    return BackboneShape(
        family="swin",
        depths=tuple(count(state, f"backbone.layers.{stage}.blocks") for stage in stages),
        width=width,
        window=(side + 1) // 2,
        heads=tuple(heads for _, heads in shapes),
    )


def count(keys: Collection[str], prefix: str) -> int:
    """Return how many numbered children `prefix.0…`, `prefix.1…` there are (the highest plus 1)."""
    number = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(m[1]) + 1 for key in keys if (m := number.match(key))), default=0)


def _holds(keys: Collection[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _shape(state: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        hint = "an official checkpoint of DVIS-DAQ holds {'model': {…}} with this key"
        raise WeightsError(f"no key {key!r} in the checkpoint", hint=hint)
    shape = tuple(state[key].shape)
    if len(shape) != rank:
        raise WeightsError(f"{key}: expected {rank} axes, got shape {shape}")
    return shape
