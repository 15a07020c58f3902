"""Backbones that give four maps, at strides 4, 8, 16 and 32."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, cast

import timm
from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STRIDES = (4, 8, 16, 32)
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
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
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def make_backbone(name: str, vit_adapter: Mapping[str, Any] | None) -> tuple[nn.Module, list[int]]:
    """Return a backbone with random weights, and its maps' channels from fine to coarse.

    Args:
        name: "resnet50", "swin-tiny" to "swin-large", "vit-adapter", or "timm:<model>".
        vit_adapter: Of a "vit-adapter": arguments in the place of ViT-L's.

    Raises:
        BuildError: There is no such backbone, or it does not give maps at all four strides.
    """
    if name == "resnet50":
        resnet = ResNetBackbone(ResNetConfig(out_features=_STAGES))
        return resnet, list(resnet.channels)
    if name in _SWIN:
        dim, depths, heads, window = _SWIN[name]
        swin = SwinBackbone(
            SwinConfig(
                embed_dim=dim, depths=depths, num_heads=heads, window_size=window,
                drop_path_rate=0.0, out_features=_STAGES,
            )
        )  # fmt: skip
        return swin, list(swin.channels)
    if name == "vit-adapter":
        from mlkit_dvis.vit_adapter import ViTAdapter

        options = _VIT_ADAPTER_L | dict(vit_adapter or {})
        return ViTAdapter(**options), [int(options["embed_dim"])] * 4
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    known = ["resnet50", *_SWIN, "vit-adapter"]
    near = difflib.get_close_matches(name, known, n=1)
    raise BuildError(
        f"backbone: no backbone {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"{', '.join(known)}, or timm:<model>",
    )


def _timm(name: str) -> tuple[nn.Module, list[int]]:
    if ":" in name or not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise BuildError(f"backbone: timm has no model {name!r}", hint=hint)
    try:
        model: Any = timm.create_model(name, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, KeyError) as err:
        raise BuildError(f"backbone: timm model {name!r} gives no maps: {err}") from err
    strides = [int(value) for value in model.feature_info.reduction()]
    if not set(STRIDES) <= set(strides):
        raise BuildError(
            f"backbone: timm model {name!r} has maps at strides {strides}, wanted {list(STRIDES)}",
            hint="take a hierarchical model, such as resnet18, regnety_002 or convnext_tiny",
        )
    wanted = [strides.index(stride) for stride in STRIDES]
    model = timm.create_model(name, features_only=True, pretrained=False, out_indices=wanted)
    return model, [int(value) for value in model.feature_info.channels()]


def maps_of(backbone: nn.Module, x: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """Return the four maps of normalised images `[R, 3, H, W]`, fine to coarse."""
    given: Any = backbone(x)
    if hasattr(given, "feature_maps"):
        return list(given.feature_maps)
    if isinstance(given, dict):
        maps = cast("dict[str, Tensor]", given)
        return [maps[name] for name in ("res2", "res3", "res4", "res5")]
    # Some timm models, Swin among them, have channels last.
    pairs = zip(given, channels, strict=True)
    return [m if m.shape[1] == width else m.permute(0, 3, 1, 2) for m, width in pairs]


def batch_norms(backbone: nn.Module) -> list[nn.Module]:
    """Return the batch norms of a backbone."""
    return [module for module in backbone.modules() if isinstance(module, _NORMS)]
