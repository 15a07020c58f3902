"""Encoder `sam`: the image encoder of Segment Anything (also MedSAM's), by segment-anything."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mlkit_core.errors import BuildError, PluginError, WeightsError
from mlkit_core.types import Example, Features, FeatureSpec, tracing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATCH, NECK = 16, 256
# Kirillov et al., "Segment Anything", ICCV 2023: width, depth, heads, blocks of global attention.
VARIANTS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
    "tiny": (32, 2, 2, (1,)),  # nobody's weights: for trials and tests
}
_FILES = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of 0..255


class SamEncoder(nn.Module):
    """A SAM image encoder: neck map "neck" `[R, 256, S/16, S/16]`, and hidden states of blocks.

    Hidden states are named `block2`, … and have the ViT's width, channels first. The vector is the
    mean over the neck's map. SAM starts from random weights unless `weights` names a file: an
    original checkpoint (`sam_vit_b_01ec64.pth`), MedSAM's (the same keys), or the encoder alone.

    Args:
        variant: "vit_b", "vit_l", "vit_h", or "tiny" (random weights only).
        image_size: Side of the square input, pixels, a multiple of 16. Published weights are for
            1024; for another size their position table is resampled.
        blocks: Blocks whose output is published beside the neck's map, from 0.
        normalize: "sam" takes SAM's mean and deviation; "medsam" stretches each image from its
            least to its greatest value to 0..1, as MedSAM was trained.
        checkpointing: Compute blocks again in the backward pass, for less memory.

    Raises:
        BuildError: The variant, size or a block is unknown.
        PluginError: segment-anything is not installed.
    """

    input_shape = (3, None, None)
    lora_targets = ("qkv",)
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        variant: str = "vit_b",
        image_size: int = 1024,
        blocks: Sequence[int] = (),
        normalize: str = "sam",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        width, depth, _, _ = _geometry(variant)
        if image_size < PATCH or image_size % PATCH:
            raise BuildError(f"image_size: expected a multiple of {PATCH} px, got {image_size}")
        if any(not 0 <= block < depth for block in blocks):
            raise BuildError(f"blocks: sam {variant} has 0 to {depth - 1}, got {list(blocks)}")
        self.variant, self.normalize, self.checkpointing = variant, normalize, checkpointing
        self.blocks = sorted(set(blocks))
        self.encoder: Any = _image_encoder(variant, image_size)
        self.sizes, self.size_multiple = (image_size,), PATCH
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) / 255 for values in (_MEAN, _STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        plain = normalize == "medsam"
        self.pad_rgb = (0.0, 0.0, 0.0) if plain else tuple(value / 255 for value in _MEAN)
        channels = {f"block{i}": width for i in self.blocks} | {"neck": NECK}
        self.spec = FeatureSpec(
            channels=channels, strides=dict.fromkeys(channels, PATCH), vector_dim=NECK
        )

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, S, S]`.

        Raises:
            BuildError: Another size; the message names the legal one.
        """
        self._check(x)
        hidden = self.encoder.patch_embed(self._normalized(x)) + self.encoder.pos_embed
        maps: dict[str, Tensor] = {}
        for index, block in enumerate(self.encoder.blocks):
            again = self.checkpointing and torch.is_grad_enabled()
            hidden = checkpoint(block, hidden, use_reentrant=False) if again else block(hidden)
            if index in self.blocks:
                maps[f"block{index}"] = hidden.permute(0, 3, 1, 2)  # [R, width, S/16, S/16]
        neck = self.encoder.neck(hidden.permute(0, 3, 1, 2))
        return Features(maps=maps | {"neck": neck}, vector=neck.mean((2, 3)))

    def _normalized(self, x: Tensor) -> Tensor:
        if self.normalize == "sam":
            return (x - self.mean) / self.std
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return (x - low) / (high - low).clamp_min(1e-8)

    def _check(self, x: Tensor) -> None:
        size = self.sizes[0]
        if not tracing() and tuple(x.shape[1:]) != (3, size, size):
            raise BuildError(
                f"sam takes images [R, 3, {size}, {size}], got {tuple(x.shape)}",
                hint="another `image_size` is a multiple of 16",
            )

    def pretrained_file(self) -> Path:
        """Return the original checkpoint, where torch's hub folder holds it.

        Raises:
            WeightsError: It is not there; segment-anything downloads nothing.
        """
        name = _FILES.get(self.variant)
        if name is None:
            raise WeightsError(f"sam {self.variant}: there are no published weights")
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        if not path.is_file():
            raise WeightsError(
                f"sam {self.variant}: no file {path}",
                hint=f"fetch {name} (the links are in segment-anything's README) into that folder, "
                "or say `weights: PATH`; `weights: none` starts from random weights",
            )
        return path

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a whole SAM checkpoint's image encoder, or an image encoder's own weights.

        Raises:
            WeightsError: Keys are missing, unknown or of another shape.
        """
        prefix = "image_encoder."
        whole = any(key.startswith(prefix) for key in state_dict)
        given = {
            key.removeprefix(prefix): values
            for key, values in state_dict.items()
            if not whole or key.startswith(prefix)
        }
        given = _resampled(given, self.encoder.state_dict())
        wrong = _misfits(given, self.encoder.state_dict())
        if wrong:
            raise WeightsError(
                f"sam {self.variant}: the weights do not fit: {'; '.join(wrong[:3])}",
                hint="check that they belong to this `variant`",
            )
        self.encoder.load_state_dict(given)


def _geometry(variant: str) -> tuple[int, int, int, tuple[int, ...]]:
    if variant not in VARIANTS:
        raise BuildError(f"variant: sam has {', '.join(VARIANTS)}, not {variant!r}")
    return VARIANTS[variant]


def _image_encoder(variant: str, image_size: int) -> nn.Module:
    try:
        from segment_anything.modeling import ImageEncoderViT
    except ModuleNotFoundError as err:
        raise PluginError(
            "encoder sam: segment-anything is not installed",
            hint="pip install 'mlkit-angioseg[sam]'",
        ) from err
    width, depth, heads, everywhere = _geometry(variant)
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        out_chans=NECK,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]  # a factory
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=everywhere,
    )
    # Random positions would all be zero, and a random encoder then blind to where things are.
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)  # pyright: ignore[reportArgumentType]  # a parameter
    return encoder


def _resampled(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with position tables resampled to this model's size, bicubic and linear."""
    resized = dict(given)
    for key, values in given.items():
        target = wanted.get(key)
        if target is None or values.shape == target.shape or values.shape[-1] != target.shape[-1]:
            continue
        if key == "pos_embed":  # [1, h, w, width]
            grid = values.permute(0, 3, 1, 2).float()
            size = tuple(target.shape[1:3])
            grid = functional.interpolate(grid, size, mode="bicubic", align_corners=False)
            resized[key] = grid.permute(0, 2, 3, 1).to(values.dtype)
        elif "rel_pos" in key:  # [2 * side - 1, head width]
            line = values.t()[None].float()
            line = functional.interpolate(line, target.shape[0], mode="linear")
            resized[key] = line[0].t().to(values.dtype)
    return resized


def _misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    wrong = [f"{key} is missing" for key in wanted if key not in given]
    wrong += [f"{key} is unknown" for key in given if key not in wanted]
    return wrong + [
        f"{key} is {tuple(given[key].shape)}, not {tuple(values.shape)}"
        for key, values in wanted.items()
        if key in given and given[key].shape != values.shape
    ]


def example(folder: Path) -> Example:
    """Return the tiny variant and two images."""
    del folder
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"variant": "tiny", "image_size": 64, "blocks": (0,)}
    return Example(options=options, args=(images,))
