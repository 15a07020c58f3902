"""Encoder `sam3`: the vision tower of SAM 3 alone, by transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError, PluginError, WeightsError
from mlkit_core.types import Example, Features, FeatureSpec, tracing
from mlkit_core.weights import hub_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PATCH = 14
_SCALES = {"fpn0": 4.0, "fpn1": 2.0, "fpn2": 1.0, "fpn3": 0.5}
_PREFIXES = ("vision_encoder.", "detector_model.vision_encoder.", "detector.vision_encoder.")


class Sam3Encoder(nn.Module):
    """SAM 3's vision tower: maps `fpn0` to `fpn3` of strides 3.5, 7, 14 and 28, 256 channels each.

    Text tower and detector are not built: of 840 M parameters 454 M are left. At 1008 px the maps
    have sides 288, 144, 72 and 36. `hidden` is the ViT's last state before the pyramid. The vector
    is the mean over `fpn2`.

    Args:
        image_size: Side of the square input, pixels, a multiple of 28; weights fit any.
        levels: Maps to publish, fine to coarse, of fpn0, fpn1, fpn2, fpn3. In a cache an image of
            1008 px costs 42 MB for fpn0, 11 for fpn1, 2.7 for fpn2 and 0.7 for fpn3.
        width: Of the ViT; with `depth`, `heads` and `fpn_width` only for trials without weights.
        depth: Blocks of the ViT.
        heads: Attention heads.
        fpn_width: Channels of the maps.

    Raises:
        BuildError: The size or a level is unknown.
        PluginError: transformers is not installed.
    """

    input_shape = (3, None, None)
    lora_targets = ("q_proj", "k_proj", "v_proj")
    pad_rgb = (0.5, 0.5, 0.5)

    def __init__(
        self,
        image_size: int = 1008,
        levels: Sequence[str] = ("fpn0", "fpn1", "fpn2", "fpn3"),
        width: int = 1024,
        depth: int = 32,
        heads: int = 16,
        fpn_width: int = 256,
    ) -> None:
        super().__init__()
        if image_size < 2 * PATCH or image_size % (2 * PATCH):
            raise BuildError(f"image_size: expected a multiple of {2 * PATCH}, got {image_size}")
        unknown = [level for level in levels if level not in _SCALES]
        if unknown or not levels:
            raise BuildError(f"levels: sam3 has {', '.join(_SCALES)}, got {list(levels)}")
        self.levels = [level for level in _SCALES if level in levels]
        self.encoder: Any = _vision_model(image_size, width, depth, heads, fpn_width)
        self.is_published = (width, depth, heads, fpn_width) == (1024, 32, 16, 256)
        self.sizes, self.size_multiple = (image_size,), 2 * PATCH
        self.spec = FeatureSpec(
            channels=dict.fromkeys(self.levels, fpn_width),
            strides={level: PATCH / _SCALES[level] for level in self.levels},
            vector_dim=fpn_width,
        )

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, S, S]`; mean and deviation are 0.5.

        Raises:
            BuildError: Another size; the message names the legal one.
        """
        size = self.sizes[0]
        if not tracing() and tuple(x.shape[1:]) != (3, size, size):
            raise BuildError(
                f"sam3 takes images [R, 3, {size}, {size}], got {tuple(x.shape)}",
                hint="another `image_size` is a multiple of 28",
            )
        pyramid = self.encoder(pixel_values=(x - 0.5) / 0.5).fpn_hidden_states
        named = dict(zip(_SCALES, pyramid, strict=True))
        maps = {level: named[level] for level in self.levels}
        return Features(maps=maps, vector=named["fpn2"].mean((2, 3)))

    def pretrained_file(self) -> Path:
        """Return SAM 3's published file: the hub's cache, else a download; the model is gated.

        Raises:
            WeightsError: This geometry has no published weights, or access was not granted.
        """
        if not self.is_published:
            raise WeightsError("sam3: only the published geometry has published weights")
        return hub_file("facebook/sam3", "model.safetensors")

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a whole SAM 3 checkpoint's vision tower, or the tower's own weights.

        Raises:
            WeightsError: Keys are missing, unknown or of another shape.
        """
        prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state_dict)), "")
        given = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        wanted = self.encoder.state_dict()
        wrong = [f"{key} is missing" for key in wanted if key not in given]
        wrong += [f"{key} is unknown" for key in given if key not in wanted]
        wrong += [
            f"{key} is {tuple(given[key].shape)}, not {tuple(values.shape)}"
            for key, values in wanted.items()
            if key in given and given[key].shape != values.shape
        ]
        if wrong:
            raise WeightsError(f"sam3: the weights do not fit: {'; '.join(wrong[:3])}")
        self.encoder.load_state_dict(given)


def _vision_model(image_size: int, width: int, depth: int, heads: int, fpn: int) -> nn.Module:
    try:
        from transformers import Sam3VisionConfig, Sam3VisionModel
    except ImportError as err:
        raise PluginError(
            "encoder sam3: transformers with SAM 3 is not installed",
            hint="pip install 'mlkit-angioseg[sam3]'",
        ) from err
    config = Sam3VisionConfig(fpn_hidden_size=fpn)
    own: Any = config.backbone_config
    own.image_size, own.hidden_size = image_size, width
    own.num_hidden_layers, own.num_attention_heads = depth, heads
    own.intermediate_size = 4736 if width == 1024 else 4 * width
    every = own.global_attn_indexes if depth == 32 else [depth - 1]
    own.global_attn_indexes = every
    return Sam3VisionModel(config)


def example(folder: Path) -> Example:
    """Return a tiny tower and two images."""
    del folder
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    options = {"image_size": 56, "width": 32, "depth": 2, "heads": 2, "fpn_width": 16}
    return Example(options=options, args=(images,))
