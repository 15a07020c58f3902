"""General components: the few that two domains need. Listing them imports nothing heavy."""

from __future__ import annotations

from mlkit_core.plugins.specs import ComponentSpec, Kind

_HERE = "mlkit_core.components"


def _spec(kind: Kind, name: str, target: str, summary: str, source: str = "") -> ComponentSpec:
    module, cls = target.split(":")
    return ComponentSpec(
        kind=kind,
        name=name,
        target=f"{_HERE}.{target}",
        config=f"{_HERE}.config:{cls}Config",
        example=f"{_HERE}.{module}:{name.replace('-', '_')}_example",
        summary=summary,
        source=source,
    )


COMPONENTS: tuple[ComponentSpec, ...] = (
    _spec(
        "encoder",
        "timm",
        "timm_encoder:TimmEncoder",
        "Any timm model: feature maps and a pooled vector; tokens for ViTs.",
        "https://github.com/huggingface/pytorch-image-models",
    ),
    _spec("fusion", "none", "no_fusion:NoFusion", "Passes the features of one role through."),
    _spec(
        "fusion",
        "film",
        "film:FiLM",
        "Scales and shifts every channel by a vector; starts as the identity.",
        "https://arxiv.org/abs/1709.07871",
    ),
    _spec(
        "fusion",
        "cross-attention",
        "cross_attention:CrossAttention",
        "Positions of the maps attend to another role's tokens; starts as the identity.",
        "https://arxiv.org/abs/1706.03762",
    ),
    _spec("loss", "bce", "mask_losses:BceLoss", "Cross-entropy of mask logits, per pixel."),
    _spec(
        "loss",
        "dice",
        "mask_losses:DiceLoss",
        "Soft Dice loss of mask logits, per image.",
        "https://arxiv.org/abs/1606.04797",
    ),
    _spec(
        "loss",
        "focal",
        "mask_losses:FocalLoss",
        "Cross-entropy that plays down pixels which are already right.",
        "https://arxiv.org/abs/1708.02002",
    ),
)
