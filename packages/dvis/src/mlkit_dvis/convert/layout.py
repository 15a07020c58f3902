"""The whole list of keys of an official checkpoint, from what it holds, with our names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlkit_core.errors import WeightsError
from mlkit_dvis.convert.backbones import resnet_moves, swin_moves, vit_adapter_moves
from mlkit_dvis.convert.detect import detect
from mlkit_dvis.convert.moves import AFFINE, ATTENTION, Move, Unused, leaves, prefixed, rename
from mlkit_dvis.convert.segmenter import MLP, segmenter_moves

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from mlkit_dvis.convert.detect import BackboneShape, Detected, RefinerShape

ENCODER = "encoders.frames."
TRACKER = "fusions.tracks.tracker."
REFINER = "fusions.refined.refiner."
_NORM = ("norm.weight", "norm.bias")
_FFN = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias", *_NORM)
_SELF = (*(f"self_attn.{name}" for name in ATTENTION), *_NORM)
_CROSS = (*(f"multihead_attn.{name}" for name in ATTENTION), *_NORM)
_SLOT = (
    *_CROSS, "slot_attn.norm_inputs.weight", "slot_attn.norm_inputs.bias",
    "slot_attn.project_q.0.weight", "slot_attn.project_q.0.bias", "slot_attn.project_q.1.weight",
    "slot_attn.project_k.weight",
)  # fmt: skip
_UNUSED: tuple[tuple[str, str], ...] = (
    (r"(daq_)?criterion\.empty_weight", "class weights of the loss; the run file sets its own"),
    (r"pixel_(mean|std)", "normalisation; the encoder has its own"),
    (
        r"backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index",
        "index table, made anew from the window's size",
    ),
    (r"backbone\.(stem|res\d)\..*\.num_batches_tracked", "a counter that inference does not read"),
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint under our keys.

    Args:
        detected: What it holds.
        tensors: By our keys.
        moves: Which key became which.
        unused: What was left out, and why.
    """

    detected: Detected
    tensors: Mapping[str, Tensor]
    moves: tuple[Move, ...]
    unused: tuple[Unused, ...]


def convert_state(state: Mapping[str, Tensor]) -> Converted:
    """Return an official checkpoint's tensors under our keys.

    Raises:
        WeightsError: A key is missing or unknown; all are listed.
    """
    unused = [Unused(key, why) for key in state if (why := _why_unused(key)) is not None]
    skipped = {one.old for one in unused}
    given = {key: tensor for key, tensor in state.items() if key not in skipped}
    detected = detect(given)
    if detected.backbone is None:
        raise WeightsError("the checkpoint has no key under 'backbone.'")
    moves = prefixed(_encoder(detected), "", ENCODER)
    if detected.tracker is not None:
        moves += prefixed(_tracker(detected.tracker.layers), "tracker.", TRACKER)
    if detected.refiner is not None:
        moves += prefixed(_refiner(detected.refiner), "refiner.", REFINER)
    return Converted(
        detected=detected, tensors=rename(given, moves), moves=tuple(moves), unused=tuple(unused)
    )


def convert_segmenter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors, from official `sem_seg_head.*` and, if any, `backbone.*`.

    Raises:
        WeightsError: A key is missing or unknown; all are listed.
    """
    given = {key: tensor for key, tensor in state.items() if _why_unused(key) is None}
    return rename(given, _encoder(detect(given)))


def _why_unused(key: str) -> str | None:
    return next((why for pattern, why in _UNUSED if re.fullmatch(pattern, key)), None)


def _encoder(detected: Detected) -> list[Move]:
    shape, backbone = detected.segmenter, detected.backbone
    moves = segmenter_moves(shape.encoder_layers, shape.decoder_layers, reid=shape.reid_dim > 0)
    if backbone is not None:
        moves += prefixed(_backbone(backbone), "backbone.", "backbone.")
    return moves


def _backbone(shape: BackboneShape) -> Iterator[Move]:
    if shape.family == "resnet":
        return resnet_moves(shape.depths)
    if shape.family == "swin":
        return swin_moves(shape.depths)
    return vit_adapter_moves(sum(shape.depths))


def _tracker(layers: int) -> Iterator[Move]:
    for i in range(layers):
        yield from _kept(f"transformer_self_attention_layers.{i}", _SELF)
        yield from _kept(f"transformer_cross_attention_layers.{i}", _CROSS)
        yield from _kept(f"transformer_ffn_layers.{i}", _FFN)
        yield from _kept(f"slot_cross_attention_layers.{i}", _SLOT)
        yield from _kept(f"slot_ffn_layers.{i}", _FFN)
    mlps = (f"{mlp}.{name}" for mlp in ("pos_embed", "mask_embed") for name in MLP)
    for name in ("decoder_norm", "class_embed", "mask_feature_proj", *mlps):
        yield from _kept(name, AFFINE)
    for name in ("new_ins_embeds", "bg_slots"):
        yield from _kept(name, ("weight",))


def _refiner(shape: RefinerShape) -> Iterator[Move]:
    for i in range(shape.layers):
        yield from _kept(f"transformer_time_self_attention_layers.{i}", _SELF)
        yield from _kept(f"transformer_obj_self_attention_layers.{i}", _SELF)
        yield from _kept(f"transformer_cross_attention_layers.{i}", _CROSS)
        yield from _kept(f"transformer_ffn_layers.{i}", _FFN)
        if shape.use_local_attn:
            yield from _kept(f"conv_short_aggregate_layers.{i}.0", AFFINE)
            yield from _kept(f"conv_short_aggregate_layers.{i}.2", AFFINE)
            yield from _kept(f"conv_norms.{i}", AFFINE)
    mlp = (f"mask_embed.{name}" for name in MLP)
    for name in ("decoder_norm", "class_embed", "activation_proj", *mlp):
        yield from _kept(name, AFFINE)


def _kept(name: str, own: Sequence[str]) -> Iterator[Move]:
    return leaves(name, name, own)
