"""Keys of the backbones: ResNet and Swin in detectron2's layout, and the ViT-Adapter.

Ours are those of transformers' `ResNetBackbone` and `SwinBackbone`, and of `ViTAdapter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_dvis.convert.moves import FROZEN_NORM, Move, leaves

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPM_NORMS = ("stem.1", "stem.4", "stem.7", "conv2.1", "conv3.1", "conv4.1")
_SPM_BARE = ("stem.0", "stem.3", "stem.6", "conv2.0", "conv3.0", "conv4.0")
_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_EXTRACTOR = (
    "query_norm", "feat_norm", "ffn_norm", *(f"attn.{name}" for name in _DEFORMABLE), "ffn.fc1",
    "ffn.dwconv.dwconv", "ffn.fc2",
)  # fmt: skip
_VIT_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_STAGES = 4
_EXTRA_EXTRACTORS = 2


def resnet_moves(depths: Sequence[int]) -> Iterator[Move]:
    """Yield the moves of a bottleneck ResNet, `res2` to `res5` of these depths."""
    yield from _convolution("stem.conv1", "embedder.embedder")
    for stage, depth in enumerate(depths):
        for j in range(depth):
            old, new = f"res{stage + 2}.{j}", f"encoder.stages.{stage}.layers.{j}"
            if j == 0:
                yield from _convolution(f"{old}.shortcut", f"{new}.shortcut")
            for k in range(3):
                yield from _convolution(f"{old}.conv{k + 1}", f"{new}.layer.{k}")


def _convolution(old: str, new: str) -> Iterator[Move]:
    yield Move(f"{old}.weight", (f"{new}.convolution.weight",))
    yield from leaves(f"{old}.norm", f"{new}.normalization", FROZEN_NORM)


def swin_moves(depths: Sequence[int]) -> Iterator[Move]:
    """Yield the moves of a Swin of these depths; its joint qkv layers are cut in three."""
    yield from leaves("patch_embed.proj", "swin.embeddings.patch_embeddings.projection")
    yield from leaves("patch_embed.norm", "swin.embeddings.norm")
    for stage, depth in enumerate(depths):
        old, new = f"layers.{stage}", f"swin.encoder.layers.{stage}"
        for j in range(depth):
            yield from _swin_block(f"{old}.blocks.{j}", f"{new}.blocks.{j}")
        if stage + 1 < len(depths):
            yield from leaves(
                f"{old}.downsample.reduction", f"{new}.downsample.reduction", ("weight",)
            )
            yield from leaves(f"{old}.downsample.norm", f"{new}.downsample.norm")
        yield from leaves(f"norm{stage}", f"hidden_states_norms.stage{stage + 1}")


def _swin_block(old: str, new: str) -> Iterator[Move]:
    yield from leaves(f"{old}.norm1", f"{new}.layernorm_before")
    table = "relative_position_bias_table"
    yield Move(f"{old}.attn.{table}", (f"{new}.attention.relative_position_bias.{table}",))
    for name in ("weight", "bias"):
        split = tuple(f"{new}.attention.{letter}_proj.{name}" for letter in "qkv")
        yield Move(f"{old}.attn.qkv.{name}", split)
    yield from leaves(f"{old}.attn.proj", f"{new}.attention.o_proj")
    yield from leaves(f"{old}.norm2", f"{new}.layernorm_after")
    for name in ("mlp.fc1", "mlp.fc2"):
        yield from leaves(f"{old}.{name}", f"{new}.{name}")


def vit_adapter_moves(depth: int) -> Iterator[Move]:
    """Yield the moves of a ViT-Adapter whose ViT has so many blocks: its names stay."""
    for name in _vit_adapter(depth):
        yield Move(name, (name,))


def _vit_adapter(depth: int) -> Iterator[str]:
    yield "level_embed"
    yield from (f"spm.{name}.weight" for name in _SPM_BARE)
    norms = [*(f"spm.{name}" for name in _SPM_NORMS), *(f"norm{i + 1}" for i in range(_STAGES))]
    for name in norms:
        yield from (f"{name}.{leaf}" for leaf in (*FROZEN_NORM, "num_batches_tracked"))
    extractors = [f"interactions.{i}.extractor" for i in range(_STAGES)]
    extra = f"interactions.{_STAGES - 1}.extra_extractors"
    extractors += [f"{extra}.{i}" for i in range(_EXTRA_EXTRACTORS)]
    affine = [f"spm.fc{i + 1}" for i in range(_STAGES)] + ["up"]
    affine += [f"{one}.{name}" for one in extractors for name in _EXTRACTOR]
    blocks = [f"vit_module.blocks.{i}" for i in range(depth)]
    affine += ["vit_module.patch_embed.proj", "vit_module.norm"]
    affine += [f"{block}.{name}" for block in blocks for name in _VIT_BLOCK]
    for name in affine:
        yield from (f"{name}.weight", f"{name}.bias")
    yield from (f"vit_module.{name}" for name in ("cls_token", "pos_embed", "mask_token"))
    yield from (f"{block}.{scale}.gamma" for block in blocks for scale in ("ls1", "ls2"))
