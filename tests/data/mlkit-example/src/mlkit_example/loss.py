"""The Tversky loss of mask logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, Example, MaskLogits, MaskTarget, ModelOutput, SampleMeta, Step

if TYPE_CHECKING:
    from pathlib import Path


def tversky(logits: Tensor, target: MaskTarget, missed: float = 0.7, smooth: float = 1.0) -> Tensor:
    """Return one minus each image's Tversky index over its valid pixels, `[B]`.

    Source: Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation using 3D
    fully convolutional deep networks", MLMI 2017, eq. 3.

    Args:
        logits: `[B, 1, H, W]`, before the sigmoid.
        target: Masks at the logits' size.
        missed: Price of a missed pixel; a false one costs 1 - missed. 0.5 is Dice.
        smooth: Added above and below, in pixels.
    """
    rows, height, width = target.masks.shape
    if logits.shape != (rows, 1, height, width):
        raise BuildError(f"tversky takes [{rows}, 1, {height}, {width}], got {tuple(logits.shape)}")
    probs, masks = logits[:, 0].float().sigmoid(), target.masks.float()
    if target.valid is not None:
        probs, masks = probs * target.valid, masks * target.valid
    hits = (probs * masks).sum((1, 2))
    missing, false = masks.sum((1, 2)) - hits, probs.sum((1, 2)) - hits
    return 1 - (hits + smooth) / (hits + missed * missing + (1 - missed) * false + smooth)


class TverskyLoss(nn.Module):
    """Tversky loss of the head's mask logits, for one class.

    Args:
        missed: Price of a missed pixel; a false one costs 1 - missed.
        smooth: Added above and below, in pixels.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, missed: float = 0.7, smooth: float = 1.0) -> None:
        super().__init__()
        self.missed, self.smooth = missed, smooth

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        head, target = output.head, batch.target
        if not isinstance(head, MaskLogits) or not isinstance(target, MaskTarget):
            raise BuildError(f"tversky reads mask logits and masks, got {type(head).__name__}")
        per_image = tversky(head.logits, target, self.missed, self.smooth)
        weight = 1 if target.weight is None else target.weight
        return {"tversky": (weight * per_image).mean()}


def example(folder: Path) -> Example:
    """Return two images' logits and masks."""
    del folder
    batch = Batch(
        inputs={},
        meta=(SampleMeta(key="0"), SampleMeta(key="1")),
        target=MaskTarget.example(batch=2, size=16, classes=1),
    )
    output = ModelOutput(head=MaskLogits(torch.randn(2, 1, 16, 16)), scope={})
    return Example(args=(output, batch, Step(0, 1, torch.Generator())))
