"""Backbones that give four maps, at strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

STRIDES = (4, 8, 16, 32)
_FOUR_MAPS: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
# Width, depths, heads, window: Liu et al., "Swin Transformer", ICCV 2021, section 3.3.
_SWIN: dict[str, tuple[int, list[int], list[int], int]] = {
    "swin-tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
    "swin-small": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
    "swin-base": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
    "swin-large": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
}
# DINOv2's ViT-L as the published checkpoints have it, on a table of 37 x 37 positions.
_VIT_ADAPTER_L: dict[str, Any] = {
    "embed_dim": 1024, "depth": 24, "vit_heads": 16, "mlp_ratio": 4.0, "pretrain_img_size": 592,
    "conv_inplane": 64, "deform_heads": 16, "n_points": 4, "cffn_ratio": 0.25,
    "interaction_indexes": [[0, 5], [6, 11], [12, 17], [18, 23]], "patch_size": 16,
}  # fmt: skip
_HIERARCHICAL = "take a hierarchical model, such as resnet18, regnety_002 or convnext_tiny"
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def make_backbone(name: str, vit_adapter: Mapping[str, Any] | None) -> tuple[nn.Module, list[int]]:
    """Return a backbone with random weights, and its maps' channels from fine to coarse.

    Args:
        name: "resnet50", "swin-tiny" to "swin-large", "vit-adapter", or "timm:<model>".
        vit_adapter: Of a "vit-adapter": arguments in the place of ViT-L's.

    Raises:
        BuildError: There is no such backbone, it does not give maps at all four strides of frames
            of any size, or `vit_adapter` does not suit.
    """
    if vit_adapter is not None and name != "vit-adapter":
        raise BuildError(f"vit_adapter: backbone {name!r} has none", hint="leave it out")
    if name == "resnet50":
        resnet = ResNetBackbone(ResNetConfig(**_FOUR_MAPS))
        return resnet, list(resnet.channels)
    if name in _SWIN:
        dim, depths, heads, window = _SWIN[name]
        swin = SwinBackbone(
            SwinConfig(
                embed_dim=dim, depths=depths, num_heads=heads, window_size=window,
                drop_path_rate=0.0, **_FOUR_MAPS,
            )
        )  # fmt: skip
        # Maps do not pass the last norm; it stays for its place in checkpoints.
        swin.swin.layernorm.requires_grad_(False)
        return swin, list(swin.channels)
    if name == "vit-adapter":
        return _vit_adapter(vit_adapter or {})
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    known = ["resnet50", *_SWIN, "vit-adapter"]
    near = [f"timm:{name}"] if timm.is_model(name) else difflib.get_close_matches(name, known, n=1)
    raise BuildError(
        f"backbone: no backbone {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"{', '.join(known)}, or timm:<model>",
    )


def _vit_adapter(changes: Mapping[str, Any]) -> tuple[nn.Module, list[int]]:
    from mlkit_dvis.vit_adapter import ViTAdapter

    for name in changes:
        if name not in _VIT_ADAPTER_L:
            near = difflib.get_close_matches(name, _VIT_ADAPTER_L, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(_VIT_ADAPTER_L)}"
            raise BuildError(f"vit_adapter: no argument {name!r}", hint=hint)
    options = _VIT_ADAPTER_L | dict(changes)
    return ViTAdapter(**options), [int(options["embed_dim"])] * 4


def _timm(name: str) -> tuple[nn.Module, list[int]]:
    if ":" in name or not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise BuildError(f"backbone: timm has no model {name!r}", hint=hint)
    try:
        with torch.device("meta"):
            blueprint: Any = timm.create_model(name, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, KeyError) as err:
        raise BuildError(f"backbone: timm model {name!r} cannot give maps: {err}") from err
    strides = [int(value) for value in blueprint.feature_info.reduction()]
    if not set(STRIDES) <= set(strides):
        raise BuildError(
            f"backbone: timm model {name!r} has maps at strides {strides}, wanted {list(STRIDES)}",
            hint=_HIERARCHICAL,
        )
    if not _takes_any_size(name, blueprint):
        raise BuildError(
            f"backbone: timm model {name!r} takes images of one size only; frames have many",
            hint=f"{_HIERARCHICAL}; {', '.join(_SWIN)} take any size",
        )
    wanted = [strides.index(stride) for stride in STRIDES]
    model: Any = timm.create_model(name, features_only=True, pretrained=False, out_indices=wanted)
    return model, [int(value) for value in model.feature_info.channels()]


def _takes_any_size(name: str, blueprint: nn.Module) -> bool:
    """Return whether a model on the meta device takes images unlike those it was made for."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.fixed_input_size:
        return True
    try:
        blueprint(torch.empty(1, 3, 96, 160, device="meta"))
    except (AssertionError, RuntimeError):
        return False
    return True


def maps_of(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the four maps of normalised images `[R, 3, H, W]`, fine to coarse."""
    given: Any = backbone(x)
    if hasattr(given, "feature_maps"):
        return list(given.feature_maps)
    if isinstance(given, dict):
        maps = cast("dict[str, Tensor]", given)
        return [maps[name] for name in ("res2", "res3", "res4", "res5")]
    if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC"):
        return [values.permute(0, 3, 1, 2) for values in given]
    return list(given)


def batch_norms(backbone: nn.Module) -> list[nn.Module]:
    """Return the batch norms of a backbone."""
    return [module for module in backbone.modules() if isinstance(module, _NORMS)]
