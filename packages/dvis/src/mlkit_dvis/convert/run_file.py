"""The run file of a converted checkpoint: the one place that knows components' option names."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.convert.detect import (
        BackboneShape,
        Detected,
        RefinerShape,
        SegmenterShape,
        TrackerShape,
    )

Options = dict[str, Any]
_OVIS_CLASSES = 25
_RESNET_50 = (3, 4, 6, 3)
_SWIN: dict[tuple[int, tuple[int, ...], int], str] = {  # by width, depths, window
    (96, (2, 2, 6, 2), 7): "swin-tiny",
    (96, (2, 2, 18, 2), 7): "swin-small",
    (128, (2, 2, 18, 2), 12): "swin-base",
    (192, (2, 2, 18, 2), 12): "swin-large",
}
_FRAMES, _TRACKS = "encoders.frames", "fusions.tracks"


def run_file(detected: Detected, classes: Sequence[str], name: str) -> str:
    """Return a complete run file, as YAML: to predict, to evaluate, and to train the last part.

    Thresholds are those of the published configurations: OVIS' where there are 25 classes, else
    YouTube-VIS'. Nothing in a checkpoint tells them.

    Args:
        detected: Parts and sizes.
        classes: Names, by label.
        name: Of the run; what no run's name may have is replaced.

    Raises:
        WeightsError: No encoder has such a backbone.
    """
    if detected.backbone is None:
        raise WeightsError("the checkpoint has no backbone")
    ovis = detected.segmenter.num_classes == _OVIS_CLASSES
    queries, heads = detected.segmenter.num_queries, detected.segmenter.heads
    fusions: list[Options] = []
    if detected.tracker is not None:
        refined = detected.refiner is not None
        fusions.append(_tracker(detected.tracker, queries, heads, ovis=ovis, refined=refined))
    if detected.refiner is not None:
        fusions.append(_refiner(detected.refiner, queries, heads))
    encoder = _encoder(detected.segmenter, detected.backbone)
    content: Options = {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "converted",
        "data": _data(detected) | {"classes": list(classes)},
        "model": {
            "encoders": {"frames": encoder},
            "fusion": fusions,
            "head": {"name": "video-instances", "max_tracks": 20, "noise_frames": 5},
        },
        **_training(detected),
        "metrics": [{"name": "track-ap"}],
    }
    return _as_yaml(content)


def _encoder(shape: SegmenterShape, backbone: BackboneShape) -> Options:
    options: Options = {
        "name": "mask2former",
        "weights": "none",
        "backbone": _backbone_name(backbone),
        "dim": shape.dim,
        "mask_dim": shape.mask_dim,
        "num_queries": shape.num_queries,
        "encoder_layers": shape.encoder_layers,
        "encoder_feedforward": shape.encoder_ffn,
        "decoder_layers": shape.decoder_layers,
        "heads": shape.heads,
        "feedforward": shape.ffn,
        "reid_dim": shape.reid_dim,
    }
    if backbone.family == "vit-adapter":
        options["vit_adapter"] = dict(backbone.vit_adapter)
    if backbone.family == "resnet":
        options["norm"] = "frozen"
    return options


def _backbone_name(shape: BackboneShape) -> str:
    """Return the encoder's name of a backbone."""
    if shape.family == "vit-adapter":
        return "vit-adapter"
    if shape.family == "resnet" and shape.depths == _RESNET_50:
        return "resnet50"
    found = _SWIN.get((shape.width, shape.depths, shape.window))
    if shape.family == "swin" and found is not None:
        return found
    raise WeightsError(
        f"the checkpoint's backbone is a {shape.family} of width {shape.width}, depths "
        f"{shape.depths}, which mask2former does not have",
        hint=f"it has resnet50, {', '.join(_SWIN.values())} and vit-adapter",
    )


def _tracker(
    shape: TrackerShape, queries: int, heads: int, *, ovis: bool, refined: bool
) -> Options:
    online = 0.1 if ovis else 0.01
    return {
        "name": "daq-tracker",
        "as": "tracks",
        "num_queries": queries,
        "layers": shape.layers,
        "heads": heads,
        "feedforward": shape.ffn,
        "num_slots": shape.num_slots,
        "training_select_threshold": 0.1 if ovis else 0.02,
        "inference_select_threshold": 0.05 if ovis and refined else online,
        "aux_inference_select_threshold": 0.01,
        "keep_threshold": 0.01,
        "ovis_infer": ovis,
        "eval_mode": "offline" if refined else "inference",
    }


def _refiner(shape: RefinerShape, queries: int, heads: int) -> Options:
    return {
        "name": "temporal-refiner",
        "as": "refined",
        "layers": shape.layers,
        "heads": heads,
        "feedforward": shape.ffn,
        "windows": 3,
        "use_local_attn": shape.use_local_attn,
        "noise_frames": 5,
        "topk_tracks": 40,
        "num_rows": queries,
    }


def _data(detected: Detected) -> Options:
    """Return the clips that the last part learns from, and the size of evaluation."""
    clips: Options = {"num_frames": 10, "frame_range": 15}
    if detected.refiner is not None:
        clips = {"num_frames": 15, "frame_range": 7, "reverse": 0.5}
    elif detected.tracker is not None:
        clips = {"num_frames": 5, "frame_range": 2}
    return {"name": "video-clips", "size": 480, "max_size": 1333, "window": 5, **clips}


def _training(detected: Detected) -> Options:
    """Return how the last part learns as published, the parts before it frozen."""
    optimizer: Options = {"name": "adamw", "lr": 1e-4, "weight_decay": 0.05, "schedule": "step"}
    if detected.refiner is not None:
        losses, frozen = ["video-set"], [_FRAMES, _TRACKS]
    elif detected.tracker is not None:
        losses, frozen = ["tracker-set"], [_FRAMES]
    else:
        losses, frozen = ["frame-set", *["reid"] * bool(detected.segmenter.reid_dim)], []
        rate = 5e-5 if detected.segmenter.reid_dim else 1e-4
        optimizer |= {"lr": rate, "lr_scale": {f"{_FRAMES}.backbone": 0.1}}
    return {
        "freeze": frozen,
        "losses": [{"name": name} for name in losses],
        "optimizer": optimizer,
        "trainer": {"name": "supervised", "batch_size": 8, "clip": 0.01},
    }


def _as_yaml(content: Options) -> str:
    yaml, text = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # untyped
    yaml.dump(content, text)
    return text.getvalue()
