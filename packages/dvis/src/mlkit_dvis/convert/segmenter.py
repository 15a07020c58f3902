"""Keys of the segmenter after its backbone: pixel decoder and query decoder.

Ours are those of transformers' `Mask2FormerPixelDecoder` and `Mask2FormerTransformerModule`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_dvis.convert.moves import ATTENTION, Move, leaves, prefixed

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVELS = 3  # of the pixel decoder's encoder: strides 32, 16, 8
_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
MLP = ("layers.0", "layers.1", "layers.2")


def segmenter_moves(encoder_layers: int, decoder_layers: int, *, reid: bool) -> list[Move]:
    """Return the moves of `sem_seg_head.*`.

    Args:
        encoder_layers: Of the pixel decoder.
        decoder_layers: Of the query decoder (9 where the official file says `DEC_LAYERS: 10`).
        reid: Whether there is a ReID head.
    """
    return [
        *prefixed(_pixel_decoder(encoder_layers), "sem_seg_head.pixel_decoder.", "pixel_decoder."),
        *prefixed(_predictor(decoder_layers, reid), "sem_seg_head.predictor.", ""),
    ]


def _pixel_decoder(layers: int) -> Iterator[Move]:
    for level in range(_LEVELS):
        for index in range(2):
            yield from leaves(f"input_proj.{level}.{index}", f"input_projections.{level}.{index}")
    yield Move("transformer.level_embed", ("level_embed",))
    for i in range(layers):
        old, new = f"transformer.encoder.layers.{i}", f"encoder.layers.{i}"
        for name in _DEFORMABLE:
            yield from leaves(f"{old}.self_attn.{name}", f"{new}.self_attn.{name}")
        yield from leaves(f"{old}.norm1", f"{new}.self_attn_layer_norm")
        yield from leaves(f"{old}.linear1", f"{new}.fc1")
        yield from leaves(f"{old}.linear2", f"{new}.fc2")
        yield from leaves(f"{old}.norm2", f"{new}.final_layer_norm")
    yield from leaves("mask_features", "mask_projection")
    for name in ("adapter_1", "layer_1"):
        yield from leaves(name, f"{name}.0", ("weight",))
        yield from leaves(f"{name}.norm", f"{name}.1")


def _predictor(layers: int, reid: bool) -> Iterator[Move]:
    for i in range(layers):
        yield from _decoder_layer(i)
    yield from leaves("decoder_norm", "transformer.decoder.layernorm")
    yield Move("query_feat.weight", ("transformer.queries_features.weight",))
    yield Move("query_embed.weight", ("transformer.queries_embedder.weight",))
    yield Move("level_embed.weight", ("transformer.level_embed.weight",))
    yield from leaves("class_embed", "class_predictor")
    embedder = "transformer.decoder.mask_predictor.mask_embedder"
    for i, name in enumerate(MLP):
        yield from leaves(f"mask_embed.{name}", f"{embedder}.{i}.0")
    if reid:
        for name in MLP:
            yield from leaves(f"reid_embed.{name}", f"reid_embed.{name}")


def _decoder_layer(i: int) -> Iterator[Move]:
    new = f"transformer.decoder.layers.{i}"
    own, cross = f"transformer_self_attention_layers.{i}", f"transformer_cross_attention_layers.{i}"
    for name in ("weight", "bias"):
        split = tuple(f"{new}.self_attn.{letter}_proj.{name}" for letter in "qkv")
        yield Move(f"{own}.self_attn.in_proj_{name}", split)
    yield from leaves(f"{own}.self_attn.out_proj", f"{new}.self_attn.out_proj")
    yield from leaves(f"{own}.norm", f"{new}.self_attn_layer_norm")
    yield from leaves(f"{cross}.multihead_attn", f"{new}.cross_attn", ATTENTION)
    yield from leaves(f"{cross}.norm", f"{new}.cross_attn_layer_norm")
    ffn = f"transformer_ffn_layers.{i}"
    yield from leaves(f"{ffn}.linear1", f"{new}.fc1")
    yield from leaves(f"{ffn}.linear2", f"{new}.fc2")
    yield from leaves(f"{ffn}.norm", f"{new}.final_layer_norm")
