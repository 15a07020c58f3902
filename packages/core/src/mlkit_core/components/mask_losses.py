"""Losses of mask logits: one value for each image, then the mean over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, Example, MaskLogits, MaskTarget, ModelOutput, SampleMeta, Step

if TYPE_CHECKING:
    from pathlib import Path


def bce_per_image(logits: Tensor, target: MaskTarget, pos_weight: float = 1.0) -> Tensor:
    """Return each image's mean cross-entropy over its valid pixels, `[B]`.

    Args:
        logits: `[B, C, H, W]`; C = 1 is binary, C > 1 takes the softmax over classes.
        target: Masks at the logits' size; class 0 is background.
        pos_weight: Worth of a pixel that is not background.
    """
    worth = 1 + (pos_weight - 1) * _foreground(target)
    return _mean_over_pixels(worth * _cross_entropy(logits, target), target)


def dice_per_image(logits: Tensor, target: MaskTarget, smooth: float = 1.0) -> Tensor:
    """Return one minus each image's soft Dice, `[B]`; several classes average without background.

    Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016, eq. 3. Unlike the paper, the sums of
    the denominator are not squared.

    Args:
        logits: `[B, C, H, W]`; C = 1 is binary, C > 1 takes the softmax over classes.
        target: Masks at the logits' size; class 0 is background.
        smooth: Added to both sums, in pixels, so that an empty mask has a gradient.
    """
    _check(logits, target)
    # In fp32: sums over a million pixels overflow half precision.
    logits, classes = logits.float(), logits.shape[1]
    if classes == 1:
        probs, masks = logits.sigmoid(), _foreground(target)[:, None]
    else:
        probs = logits.softmax(1)[:, 1:]
        masks = F.one_hot(target.masks.long(), classes).movedim(-1, 1)[:, 1:].float()
    valid = _valid(target)[:, None].float()
    probs, masks = (probs * valid).flatten(2), (masks * valid).flatten(2)  # [B, C, H * W]
    overlap = (probs * masks).sum(2)
    total = probs.sum(2) + masks.sum(2)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean(1)


def focal_per_image(
    logits: Tensor, target: MaskTarget, gamma: float = 2.0, alpha: float | None = 0.25
) -> Tensor:
    """Return each image's mean focal loss over its valid pixels, `[B]`.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5. Unlike the
    paper, the mean is over pixels, not over foreground.

    Args:
        logits: `[B, C, H, W]`; C = 1 is binary, C > 1 takes the softmax over classes.
        target: Masks at the logits' size; class 0 is background.
        gamma: Exponent of one minus the probability of the true class.
        alpha: Worth of foreground, 1 - alpha of background; None: both 1.
    """
    entropy = _cross_entropy(logits, target)  # -log of the true class's probability
    # Clamped: the power's slope at exactly 0 is infinite for exponents below 1.
    missed = (-torch.expm1(-entropy)).clamp_min(1e-12)
    loss = missed.pow(gamma) * entropy
    if alpha is not None:
        foreground = _foreground(target)
        loss = (alpha * foreground + (1 - alpha) * (1 - foreground)) * loss
    return _mean_over_pixels(loss, target)


class BceLoss(nn.Module):
    """Cross-entropy of the head's mask logits.

    Args:
        pos_weight: Worth of a pixel that is not background.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__()
        if pos_weight <= 0:
            raise BuildError(f"pos_weight: must be positive, got {pos_weight}")
        self.pos_weight = pos_weight

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        logits, target = _masks(output, batch)
        return {"bce": _mean_over_images(bce_per_image(logits, target, self.pos_weight), target)}


class DiceLoss(nn.Module):
    """Soft Dice loss of the head's mask logits.

    Args:
        smooth: Added to both sums, in pixels.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        if smooth <= 0:
            raise BuildError(f"smooth: must be positive, got {smooth}")
        self.smooth = smooth

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        logits, target = _masks(output, batch)
        return {"dice": _mean_over_images(dice_per_image(logits, target, self.smooth), target)}


class FocalLoss(nn.Module):
    """Focal loss of the head's mask logits.

    Args:
        gamma: Exponent; 0 is plain cross-entropy.
        alpha: Worth of foreground, 0..1; None: foreground and background count alike.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        if gamma < 0 or not 0 <= (alpha or 0) <= 1:
            raise BuildError(f"gamma {gamma} must not be negative, alpha {alpha} within 0..1")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        logits, target = _masks(output, batch)
        per_image = focal_per_image(logits, target, self.gamma, self.alpha)
        return {"focal": _mean_over_images(per_image, target)}


def _masks(output: ModelOutput, batch: Batch) -> tuple[Tensor, MaskTarget]:
    if not isinstance(output.head, MaskLogits) or not isinstance(batch.target, MaskTarget):
        got = f"{type(output.head).__name__} and {type(batch.target).__name__}"
        raise BuildError(f"mask loss: expected MaskLogits and MaskTarget, got {got}")
    return output.head.logits, batch.target


def _check(logits: Tensor, target: MaskTarget) -> None:
    rows, height, width = target.masks.shape
    if (logits.shape[0], *logits.shape[2:]) != (rows, height, width):
        raise BuildError(
            f"mask loss: logits {tuple(logits.shape)} and masks {tuple(target.masks.shape)} must "
            "have the same rows, height and width"
        )


def _foreground(target: MaskTarget) -> Tensor:
    return (target.masks > 0).float()  # [B, H, W]


def _valid(target: MaskTarget) -> Tensor:
    return torch.ones_like(target.masks, dtype=torch.bool) if target.valid is None else target.valid


def _cross_entropy(logits: Tensor, target: MaskTarget) -> Tensor:
    _check(logits, target)
    logits = logits.float()
    if logits.shape[1] == 1:
        masks = _foreground(target)
        return F.binary_cross_entropy_with_logits(logits[:, 0], masks, reduction="none")
    return F.cross_entropy(logits, target.masks.long(), reduction="none")  # [B, H, W]


def _mean_over_pixels(loss: Tensor, target: MaskTarget) -> Tensor:
    valid = _valid(target).float()
    return (loss * valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)  # [B]


def _mean_over_images(per_image: Tensor, target: MaskTarget) -> Tensor:
    # Divided by the number of images, not by the weights: then ranks can be averaged by rows.
    return per_image.mean() if target.weight is None else (per_image * target.weight).mean()


def _example() -> Example:
    target = MaskTarget.example(batch=2, size=16, classes=1)
    output = ModelOutput(head=MaskLogits(torch.randn(2, 1, 16, 16)), scope={})
    meta = tuple(SampleMeta(key=str(row)) for row in range(2))
    batch = Batch(inputs={}, meta=meta, target=target)
    return Example(args=(output, batch, Step(0, 1, torch.Generator())))


def bce_example(folder: Path) -> Example:
    """Return two images' logits and masks."""
    del folder
    return _example()


def dice_example(folder: Path) -> Example:
    """Return two images' logits and masks."""
    del folder
    return _example()


def focal_example(folder: Path) -> Example:
    """Return two images' logits and masks."""
    del folder
    return _example()
