"""Losses `cldice` and `tversky`: one value for each image, then the mean over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, Example, MaskLogits, MaskTarget, ModelOutput, SampleMeta, Step

if TYPE_CHECKING:
    from pathlib import Path


def _eroded(values: Tensor) -> Tensor:
    """Return the minimum over a cross of five pixels, `[B, C, H, W]`."""
    tall = -functional.max_pool2d(-values, (3, 1), 1, (1, 0))
    wide = -functional.max_pool2d(-values, (1, 3), 1, (0, 1))
    return torch.minimum(tall, wide)


def _opened(values: Tensor) -> Tensor:
    return functional.max_pool2d(_eroded(values), 3, 1, 1)


def soft_skeleton(values: Tensor, iterations: int) -> Tensor:
    """Return the soft skeleton of probabilities `[B, C, H, W]`, by repeated erosion and opening.

    Source: Shit et al., "clDice: a Novel Topology-Preserving Loss Function for Tubular Structure
    Segmentation", CVPR 2021, algorithm 1.

    Args:
        values: 0..1.
        iterations: At least half the widest vessel, in pixels.
    """
    skeleton = functional.relu(values - _opened(values))
    for _ in range(iterations):
        values = _eroded(values)
        ridge = functional.relu(values - _opened(values))
        skeleton = skeleton + functional.relu(ridge - skeleton * ridge)
    return skeleton


def cldice_per_image(
    logits: Tensor, target: MaskTarget, iterations: int = 3, smooth: float = 1.0
) -> Tensor:
    """Return one minus each image's soft centreline Dice, `[B]`; classes average.

    Source: Shit et al., CVPR 2021, algorithm 2: topology precision is the share of the prediction's
    skeleton within the mask, sensitivity that of the mask's skeleton within the prediction.

    Args:
        logits: `[B, C, H, W]`; C = 1 is binary, C > 1 takes the softmax over classes.
        target: Masks at the logits' size; class 0 is background.
        iterations: Of the skeleton.
        smooth: Added to both sums of a ratio, in pixels.
    """
    probs, masks, valid = _foreground(logits, target)
    probs, masks = probs * valid, masks * valid
    thin, truth = soft_skeleton(probs, iterations), soft_skeleton(masks, iterations)
    precision = _share(thin, masks, smooth)
    sensitivity = _share(truth, probs, smooth)
    return (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean(1)


def tversky_per_image(
    logits: Tensor,
    target: MaskTarget,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 1.0,
) -> Tensor:
    """Return each image's Tversky loss to the power `gamma`, `[B]`; classes average.

    Source: Salehi, Erdogmus and Gholipour, "Tversky loss function for image segmentation using 3D
    fully convolutional deep networks", MLMI 2017, eq. 4; the power as in Abraham and Khan, "A novel
    focal Tversky loss function", ISBI 2019.

    Args:
        logits: `[B, C, H, W]`; C = 1 is binary, C > 1 takes the softmax over classes.
        target: Masks at the logits' size; class 0 is background.
        alpha: Worth of a false alarm.
        beta: Worth of a miss; alpha = beta = 0.5 is Dice.
        gamma: Below 1 keeps pressure on images that are nearly right.
        smooth: Added to both sums, in pixels.
    """
    probs, masks, valid = _foreground(logits, target)
    probs, masks = (probs * valid).flatten(2), (masks * valid).flatten(2)
    hit = (probs * masks).sum(2)
    alarms, misses = (probs * (1 - masks)).sum(2), ((1 - probs) * masks).sum(2)
    index = (hit + smooth) / (hit + alpha * alarms + beta * misses + smooth)
    return (1 - index).clamp_min(1e-7).pow(gamma).mean(1)


def _share(skeleton: Tensor, within: Tensor, smooth: float) -> Tensor:
    inside = (skeleton * within).sum((2, 3))
    return (inside + smooth) / (skeleton.sum((2, 3)) + smooth)  # [B, C]


def _foreground(logits: Tensor, target: MaskTarget) -> tuple[Tensor, Tensor, Tensor]:
    """Return foreground probabilities, masks and what is valid, `[B, C, H, W]`."""
    rows, height, width = target.masks.shape
    if (logits.shape[0], *logits.shape[2:]) != (rows, height, width):
        raise BuildError(
            f"mask loss: logits {tuple(logits.shape)} and masks {tuple(target.masks.shape)} must "
            "have the same rows, height and width"
        )
    logits, classes = logits.float(), logits.shape[1]
    everywhere = torch.ones_like(target.masks, dtype=torch.bool)
    valid = (everywhere if target.valid is None else target.valid)[:, None].float()
    if classes == 1:
        return logits.sigmoid(), (target.masks > 0)[:, None].float(), valid
    masks = functional.one_hot(target.masks.long(), classes).movedim(-1, 1)[:, 1:].float()
    return logits.softmax(1)[:, 1:], masks, valid


class ClDiceLoss(nn.Module):
    """Soft centreline Dice loss of the head's mask logits; use it beside Dice or cross-entropy.

    Args:
        iterations: Of the skeleton: at least half the widest vessel, in input pixels.
        smooth: Added to both sums of a ratio, in pixels.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, iterations: int = 3, smooth: float = 1.0) -> None:
        super().__init__()
        if iterations < 1 or smooth <= 0:
            raise BuildError(f"iterations {iterations} and smooth {smooth} must be positive")
        self.iterations, self.smooth = iterations, smooth

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        logits, target = _masks(output, batch)
        per_image = cldice_per_image(logits, target, self.iterations, self.smooth)
        return {"cldice": _mean(per_image, target)}


class TverskyLoss(nn.Module):
    """Tversky loss of the head's mask logits; with `gamma` below 1 the focal Tversky loss.

    Args:
        alpha: Worth of a false alarm.
        beta: Worth of a miss.
        gamma: Exponent.
        smooth: Added to both sums, in pixels.
    """

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(
        self, alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0, smooth: float = 1.0
    ) -> None:
        super().__init__()
        if min(alpha, beta, gamma, smooth) <= 0:
            raise BuildError("alpha, beta, gamma and smooth must be positive")
        self.options = {"alpha": alpha, "beta": beta, "gamma": gamma, "smooth": smooth}

    def forward(self, output: ModelOutput, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the mean over the batch's images."""
        logits, target = _masks(output, batch)
        return {"tversky": _mean(tversky_per_image(logits, target, **self.options), target)}


def _masks(output: ModelOutput, batch: Batch) -> tuple[Tensor, MaskTarget]:
    if not isinstance(output.head, MaskLogits) or not isinstance(batch.target, MaskTarget):
        got = f"{type(output.head).__name__} and {type(batch.target).__name__}"
        raise BuildError(f"mask loss: expected MaskLogits and MaskTarget, got {got}")
    return output.head.logits, batch.target


def _mean(per_image: Tensor, target: MaskTarget) -> Tensor:
    # Divided by the number of images, not by the weights: then ranks can be averaged by rows.
    return per_image.mean() if target.weight is None else (per_image * target.weight).mean()


def example(folder: Path) -> Example:
    """Return two images' logits and masks."""
    del folder
    target = MaskTarget.example(batch=2, size=16, classes=1)
    logits = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    output = ModelOutput(head=MaskLogits(logits), scope={})
    meta = tuple(SampleMeta(key=str(row)) for row in range(2))
    batch = Batch(inputs={}, meta=meta, target=target)
    return Example(args=(output, batch, Step(0, 1, torch.Generator())))
