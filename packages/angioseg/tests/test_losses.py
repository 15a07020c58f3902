"""Centreline Dice and Tversky loss, against MONAI and values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from monai.losses import SoftclDiceLoss
from monai.losses import TverskyLoss as MonaiTversky

from mlkit_angioseg.losses.overlap import (
    ClDiceLoss,
    cldice_per_image,
    soft_skeleton,
    tversky_per_image,
)
from mlkit_core.types import Batch, MaskLogits, MaskTarget, ModelOutput, SampleMeta, Step


@pytest.fixture
def vessels():
    """Two images with a line of three pixels' width each, and logits that miss part of it."""
    masks = torch.zeros(2, 32, 32)
    masks[0, 10:13] = 1
    masks[1, :, 20:23] = 1
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = (masks[:, None] * 4 - 2) + noise
    logits[0, :, :, :8] = -4.0
    return logits, MaskTarget(masks)


def test_cldice_equals_monai_on_each_image(vessels):
    logits, target = vessels
    ours = cldice_per_image(logits, target, iterations=4)
    theirs = SoftclDiceLoss(iter_=4, smooth=1e-8)
    for row in range(2):
        expected = theirs(logits[row][None].sigmoid(), target.masks[row][None, None])
        torch.testing.assert_close(ours[row], expected, atol=1e-5, rtol=1e-5)


def test_a_line_is_its_own_skeleton_after_thinning():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 6:9, 2:14] = 1
    skeleton = soft_skeleton(mask, 3)
    assert skeleton[0, 0, 7, 4:12].eq(1).all()
    assert skeleton[0, 0, [6, 8], 4:12].eq(0).all()


def test_cldice_sees_a_gap_that_dice_hardly_does(vessels):
    masks = torch.zeros(1, 64, 64)
    masks[0, 30:33] = 1
    whole, broken = masks * 20 - 10, masks * 20 - 10
    broken[:, :, 30:34] = -10.0
    target = MaskTarget(masks)
    full = cldice_per_image(whole[:, None], target)
    gap = cldice_per_image(broken[:, None], target)
    assert full.item() == pytest.approx(0.0, abs=1e-3)
    # Four of 64 skeleton pixels are missed: sensitivity 61 / 65 with smooth 1, precision 1.
    assert gap.item() == pytest.approx(1 - 2 * (61 / 65) / (1 + 61 / 65), abs=4e-3)


def test_tversky_equals_monai_on_each_image(vessels):
    logits, target = vessels
    ours = tversky_per_image(logits, target, alpha=0.3, beta=0.7)
    theirs = MonaiTversky(
        sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0, reduction="none"
    )
    expected = theirs(logits, target.masks[:, None]).flatten()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_focal_tversky_is_the_power_of_it(vessels):
    logits, target = vessels
    plain = tversky_per_image(logits, target)
    torch.testing.assert_close(tversky_per_image(logits, target, gamma=0.75), plain**0.75)


def test_padding_changes_neither_loss(vessels):
    logits, target = vessels
    wide = torch.full((2, 1, 32, 48), 3.0)
    wide[..., :32] = logits
    masks, valid = torch.zeros(2, 32, 48), torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[..., :32], valid[..., :32] = target.masks, True
    edged = torch.zeros(2, 32, 48)
    edged[..., :32] = target.masks
    padded = MaskTarget(edged, valid=valid)
    torch.testing.assert_close(tversky_per_image(wide, padded), tversky_per_image(logits, target))
    # The skeleton looks one pixel around: invalid pixels count as background, as at no border.
    assert (cldice_per_image(wide, padded) - cldice_per_image(logits, target)).abs().max() < 0.05


def test_several_classes_average_their_own_losses():
    labels = torch.zeros(1, 16, 16)
    labels[0, 4:7], labels[0, 10:13] = 1, 2
    logits = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 1).float() * 20
    assert cldice_per_image(logits, MaskTarget(labels)).item() < 1e-3
    swapped = logits[:, [0, 2, 1]]
    assert cldice_per_image(swapped, MaskTarget(labels)).item() > 0.8


def test_an_images_weight_scales_its_loss(vessels):
    logits, target = vessels
    meta = tuple(SampleMeta(key=str(row)) for row in range(2))
    loss, step = ClDiceLoss(), Step(0, 1, torch.Generator())
    weighed = MaskTarget(target.masks, weight=torch.tensor([0.0, 2.0]))
    output = ModelOutput(head=MaskLogits(logits), scope={})
    value = loss(output, Batch(inputs={}, meta=meta, target=weighed), step)["cldice"]
    torch.testing.assert_close(value, cldice_per_image(logits, target)[1])
