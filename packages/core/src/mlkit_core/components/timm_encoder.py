"""Any timm model as an encoder: feature maps, a pooled vector, tokens for ViTs."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import TYPE_CHECKING, Any, Literal

import timm
import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.types import Example, Features, FeatureSpec, tracing
from mlkit_core.weights import hub_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class TimmEncoder(nn.Module):
    """A timm model, built with random weights; `load_pretrained` brings published ones.

    Maps are named by stride: `p3` for 8 = 2^3, `s14` where the stride is no power of two. Where
    several stages share a stride, as a ViT's blocks do, they are named `block5`, `block11`. The
    vector is the mean over the last map; a ViT pools in its own way. A ViT's maps and tokens are
    taken after its final norm.

    Args:
        model: timm's name, with or without a tag.
        out_indices: Stages to publish, counted as timm does, negative from the end. None: all,
            or the last one where all share one stride.
        image_size: Side in pixels that the model is built for; None: its own. A ViT built for
            another size has another position table (published weights are resampled to it).
        normalize: "model" applies the model's mean and deviation to RGB 0..1, "none" nothing.

    Raises:
        BuildError: timm has no such model, the model no such stage, or the size does not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] | None = None,
        image_size: int | None = None,
        normalize: Literal["model", "none"] = "model",
    ) -> None:
        super().__init__()
        options, fixed = _size_options(model, image_size)
        self.model, self._options = model, options
        self.backbone: Any = timm.create_model(model, pretrained=False, num_classes=0, **options)
        self.is_vit = _is_vit(self.backbone)
        stages: list[dict[str, Any]] = list(self.backbone.feature_info)
        self.indices = _indices(model, stages, out_indices)
        if not self.is_vit:
            self.backbone.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.spec = self._publish([stages[i] for i in self.indices])
        self.input_shape: tuple[int | None, ...] = (3, None, None)
        self.size_multiple = max(self.spec.strides.values())
        self.sizes = (fixed,) if fixed else None
        if fixed and fixed % self.size_multiple:
            raise BuildError(
                f"timm model {model!r} takes {fixed} px only, which its stride "
                f"{self.size_multiple} does not divide",
                hint="leave the coarsest stage out by `out_indices`",
            )
        self.pad_rgb = self._register_normalization(normalize)
        self.lora_targets = _lora_targets(self.backbone)

    def _register_normalization(self, normalize: str) -> tuple[float, ...]:
        config, plain = self.backbone.pretrained_cfg, normalize == "none"
        mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (config["mean"], config["std"])
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        return tuple(float(value) for value in mean)

    def _publish(self, stages: list[dict[str, Any]]) -> FeatureSpec:
        strides = [int(stage["reduction"]) for stage in stages]
        channels = [int(stage["num_chs"]) for stage in stages]
        unique = len(set(strides)) == len(strides) and strides == sorted(strides)
        levels = [
            _level(s) if unique else f"block{i}" for i, s in zip(self.indices, strides, strict=True)
        ]
        return FeatureSpec(
            channels=dict(zip(levels, channels, strict=True)),
            strides=dict(zip(levels, strides, strict=True)),
            vector_dim=self.backbone.head_hidden_size if self.is_vit else channels[-1],
            token_dim=self.backbone.num_features if self.is_vit else None,
        )

    def forward(self, x: Tensor) -> Features:
        """Return the features of RGB images 0..1, `[R, 3, H, W]`.

        Raises:
            BuildError: The model does not take this size; the message names the legal ones.
        """
        self._check(x)
        x = (x - self.mean) / self.std
        if not self.is_vit:
            maps = self.backbone.forward_intermediates(
                x, indices=self.indices, intermediates_only=True
            )
            return Features(maps=self._named(maps), vector=maps[-1].mean((2, 3)))
        final, maps = self.backbone.forward_intermediates(x, indices=self.indices, norm=True)
        return Features(
            maps=self._named(maps),
            vector=self.backbone.forward_head(final, pre_logits=True),
            tokens=final[:, self.backbone.num_prefix_tokens :],
        )

    def _named(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.spec.channels, maps, strict=True))

    def _check(self, x: Tensor) -> None:
        if tracing():
            return
        if x.ndim != 4 or x.shape[1] != 3:
            raise BuildError(f"timm model {self.model!r} takes [R, 3, H, W], got {tuple(x.shape)}")
        height, width = x.shape[2:]
        if self.sizes and (height, width) != self.sizes * 2:
            legal = f"{self.sizes[0]} x {self.sizes[0]} px"
        elif height % self.size_multiple or width % self.size_multiple:
            legal = f"multiples of {self.size_multiple} px"
        else:
            return
        raise BuildError(f"timm model {self.model!r} takes {legal}, got {height} x {width}")

    def pretrained_file(self) -> Path:
        """Return the published weights' file, from the local cache or else downloaded.

        Raises:
            WeightsError: None are published, or they are neither cached nor to be had.
        """
        config = self.backbone.pretrained_cfg
        if not config.get("hf_hub_id") or config.get("custom_load"):
            raise WeightsError(
                f"timm model {self.model!r}: timm publishes no weights that load by themselves",
                hint="`weights: PATH` for a file, `weights: none` for a random start",
            )
        return hub_file(config["hf_hub_id"], config.get("hf_hub_filename") or "model.safetensors")

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights as timm or the model's authors publish them, all but the classifier.

        Position tables are resampled to the size that this model was built for.

        Raises:
            WeightsError: Keys are missing, unknown or of another shape.
        """
        with torch.device("meta"):
            whole = timm.create_model(self.model, pretrained=False, num_classes=0, **self._options)
        given = _as_timm(self.model, dict(state_dict), self.backbone, whole)
        known = {*whole.state_dict(), *self.backbone.state_dict()}
        classifier = self.backbone.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        wrong = _misfits(given, self.backbone.state_dict())
        wrong += [
            f"{key} is unknown"
            for key in given
            if key not in known and not key.startswith(tuple(f"{head}." for head in heads))
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise WeightsError(
                f"timm model {self.model!r}: the weights do not fit: {'; '.join(wrong[:3])}{more}",
                hint="check that they belong to this model, and `image_size`",
            )
        self.backbone.load_state_dict({key: given[key] for key in self.backbone.state_dict()})


def _misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    return [f"{key} is missing" for key in wanted if key not in given] + [
        f"{key} is {tuple(given[key].shape)}, not {tuple(values.shape)}"
        for key, values in wanted.items()
        if key in given and given[key].shape != values.shape
    ]


def _level(stride: int) -> str:
    return f"p{stride.bit_length() - 1}" if stride & (stride - 1) == 0 else f"s{stride}"


def _is_vit(backbone: nn.Module) -> bool:
    patches = getattr(backbone, "patch_embed", None)
    return hasattr(backbone, "num_prefix_tokens") and hasattr(patches, "grid_size")


def _size_options(model: str, image_size: int | None) -> tuple[dict[str, Any], int | None]:
    """Return timm's keywords for the wanted size, and the only legal size where it is fixed."""
    if ":" in model or not timm.is_model(model):
        close = difflib.get_close_matches(model.split(".")[0], timm.list_models(), n=3)
        raise BuildError(
            f"model: timm has no model {model!r}",
            hint=f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else "see timm.list_models()",
        )
    try:
        with torch.device("meta"):
            blueprint: Any = timm.create_model(model, pretrained=False, num_classes=0)
    except RuntimeError as err:  # an unknown tag
        tags = ", ".join(timm.list_models(f"{model.split('.')[0]}.*", pretrained=True))
        raise BuildError(f"model: {err}", hint=f"timm lists {tags or 'no tag'}") from err
    known = inspect.signature(type(blueprint).__init__).parameters
    options: dict[str, Any] = {}
    if image_size is not None:
        if "img_size" not in known:
            raise BuildError(
                f"image_size: timm model {model!r} is not built for one size; leave it out"
            )
        options["img_size"] = image_size
    if "dynamic_img_size" in known:
        return options | {"dynamic_img_size": True}, None
    config = blueprint.pretrained_cfg
    return options, (image_size or config["input_size"][-1]) if config["fixed_input_size"] else None


def _indices(model: str, stages: list[dict[str, Any]], wanted: Sequence[int] | None) -> list[int]:
    if wanted is None:
        alike = len({stage["reduction"] for stage in stages}) == 1
        return [len(stages) - 1] if alike else list(range(len(stages)))
    legal = range(-len(stages), len(stages))
    if not wanted or any(index not in legal for index in wanted):
        raise BuildError(
            f"out_indices: timm model {model!r} has 0 to {len(stages) - 1}, got {list(wanted)}"
        )
    return sorted({index % len(stages) for index in wanted})


def _lora_targets(backbone: nn.Module) -> tuple[str, ...]:
    """Return the attention's input projections, where they are called as modules."""
    named = {
        name.rpartition(".")[2]: m
        for name, m in backbone.named_modules()
        if isinstance(m, nn.Linear)
    }
    # Attention with a bias of its own reads `qkv.weight` past the module: an adapter would be deaf.
    deaf = any(getattr(m, "q_bias", None) is not None for m in backbone.modules())
    for targets in (("qkv",), ("q_proj", "k_proj", "v_proj"), ("q", "kv")):
        if set(targets) <= set(named) and not (deaf and targets == ("qkv",)):
            return targets
    return ()


def _as_timm(
    model: str, state_dict: dict[str, Any], backbone: nn.Module, whole: nn.Module
) -> dict[str, Tensor]:
    """Return weights under timm's names and in this model's shapes, by the model's own filter."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state_dict
    try:
        return convert(state_dict, whole)
    except (KeyError, ValueError, RuntimeError, AttributeError, AssertionError) as err:
        raise WeightsError(
            f"timm model {model!r}: the weights cannot be read as its own: {err!r}"
        ) from err


def timm_example(folder: Path) -> Example:
    """Return a tiny residual network and two images."""
    del folder
    return Example(options={"model": "test_resnet"}, args=(torch.rand(2, 3, 64, 64),))
