"""Mask losses against values worked out by hand and against MONAI."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from mlkit_core.components.mask_losses import (
    BceLoss,
    DiceLoss,
    FocalLoss,
    bce_per_image,
    dice_per_image,
    focal_per_image,
)
from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, MaskLogits, MaskTarget, ModelOutput, SampleMeta, Step

LOSSES = [BceLoss(pos_weight=3.0), DiceLoss(), FocalLoss()]


@pytest.fixture
def monai_losses():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.losses", reason="MONAI is a development dependency")


def value_of(loss, logits, target):
    meta = tuple(SampleMeta(key=str(i)) for i in range(len(logits)))
    batch = Batch(inputs={}, meta=meta, target=target)
    output = ModelOutput(head=MaskLogits(logits), scope={})
    (value,) = loss(output, batch, Step(0, 1, torch.Generator())).values()
    return value


def scene(classes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, classes, 12, 10, generator=generator)
    masks = torch.randint(0, max(classes, 2), (3, 12, 10), generator=generator).float()
    return logits, masks


def test_bce_of_zero_logits_is_log_two():
    value = bce_per_image(torch.zeros(1, 1, 4, 4), MaskTarget(torch.ones(1, 4, 4)))
    assert value.item() == pytest.approx(math.log(2))


def test_bce_weighs_foreground_pixels_by_pos_weight():
    masks = torch.zeros(1, 1, 4)
    masks[..., 0] = 1  # one pixel of four: (5 + 3) / 4 * log 2
    value = bce_per_image(torch.zeros(1, 1, 1, 4), MaskTarget(masks), pos_weight=5.0)
    assert value.item() == pytest.approx(2 * math.log(2))


def test_bce_with_several_classes_is_the_log_of_the_true_class():
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).view(1, 3, 1, 1)
    value = bce_per_image(logits, MaskTarget(torch.full((1, 1, 1), 2.0)))
    assert value.item() == pytest.approx(-math.log(0.3))


def test_dice_by_hand():
    # Probability 0.5 on 16 pixels, 4 of them foreground, smooth 1: 1 - (2 * 2 + 1) / (8 + 4 + 1).
    masks = torch.zeros(1, 4, 4)
    masks[:, 0] = 1
    value = dice_per_image(torch.zeros(1, 1, 4, 4), MaskTarget(masks))
    assert value.item() == pytest.approx(1 - 5 / 13)


def test_dice_of_one_perfect_and_one_missed_image_averages_to_a_half():
    # A whole-batch Dice would hide the thin miss behind the big hit.
    masks = torch.zeros(2, 32, 32)
    masks[0, 4:28, 4:28] = 1
    masks[1, 16] = 1
    logits = torch.full((2, 1, 32, 32), -100.0)
    logits[0, 0, 4:28, 4:28] = 100
    value = value_of(DiceLoss(smooth=1e-6), logits, MaskTarget(masks))
    assert value.item() == pytest.approx(0.5, abs=1e-6)


def test_dice_sums_a_large_half_precision_image_without_overflow():
    logits = torch.full((1, 1, 1024, 1024), 20.0, dtype=torch.float16)
    value = dice_per_image(logits, MaskTarget(torch.ones(1, 1024, 1024)))
    assert value.item() == pytest.approx(0.0, abs=1e-6)


def test_dice_equals_monai(monai_losses):
    logits, masks = scene()
    reference = monai_losses.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    value = value_of(DiceLoss(), logits, MaskTarget(masks))
    torch.testing.assert_close(value, reference(logits, masks[:, None]))


def test_dice_of_several_classes_equals_monai_without_background(monai_losses):
    logits, masks = scene(classes=4)
    reference = monai_losses.DiceLoss(
        softmax=True, to_onehot_y=True, include_background=False, smooth_nr=1.0, smooth_dr=1.0
    )
    value = value_of(DiceLoss(), logits, MaskTarget(masks))
    torch.testing.assert_close(value, reference(logits, masks[:, None]))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, None), (0.0, 0.75)])
def test_focal_equals_monai(monai_losses, gamma, alpha):
    logits, masks = scene()
    reference = monai_losses.FocalLoss(gamma=gamma, alpha=alpha)
    value = value_of(FocalLoss(gamma, alpha), logits, MaskTarget(masks))
    torch.testing.assert_close(value, reference(logits, masks[:, None]))


def test_focal_of_several_classes_equals_monai(monai_losses):
    logits, masks = scene(classes=3)
    reference = monai_losses.FocalLoss(gamma=2.0, use_softmax=True, to_onehot_y=True)
    # MONAI averages over classes, too, and all but the true class are zero.
    value = value_of(FocalLoss(2.0, None), logits, MaskTarget(masks))
    torch.testing.assert_close(value, 3 * reference(logits, masks[:, None]))


def test_focal_without_gamma_and_alpha_is_cross_entropy():
    logits, masks = scene()
    torch.testing.assert_close(
        focal_per_image(logits, MaskTarget(masks), gamma=0.0, alpha=None),
        bce_per_image(logits, MaskTarget(masks)),
    )


def test_focal_has_a_finite_gradient_where_the_answer_is_certain():
    logits = torch.tensor([[[[80.0, -80.0]]]], requires_grad=True)
    loss = focal_per_image(logits, MaskTarget(torch.tensor([[[1.0, 0.0]]])), gamma=0.5)
    loss.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_half_of_padding_changes_nothing(loss, classes):
    logits, masks = scene(classes)
    padded_masks = torch.cat([masks, torch.ones_like(masks)], dim=1)
    padded_logits = torch.cat([logits, torch.full_like(logits, 7.0)], dim=2)
    valid = torch.cat([torch.ones_like(masks), torch.zeros_like(masks)], dim=1).bool()
    torch.testing.assert_close(
        value_of(loss, padded_logits, MaskTarget(padded_masks, valid=valid)),
        value_of(loss, logits, MaskTarget(masks)),
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_padding_gets_no_gradient(loss):
    logits, masks = scene()
    logits.requires_grad_()
    valid = torch.ones_like(masks).bool()
    valid[:, 6:] = False
    value_of(loss, logits, MaskTarget(masks, valid=valid)).backward()
    assert logits.grad[:, :, 6:].abs().max() == 0
    assert logits.grad[:, :, :6].abs().min() > 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_weight_of_zero_silences_an_image_and_the_mean_is_over_all_images(loss):
    logits, masks = scene()
    alone = [value_of(loss, logits[i : i + 1], MaskTarget(masks[i : i + 1])) for i in range(3)]
    weighed = value_of(loss, logits, MaskTarget(masks, weight=torch.tensor([1.0, 0.0, 2.0])))
    torch.testing.assert_close(weighed, (alone[0] + 2 * alone[2]) / 3)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_an_image_that_is_all_padding_costs_nothing(loss):
    logits, masks = scene()
    target = MaskTarget(masks, valid=torch.zeros_like(masks).bool())
    assert value_of(loss, logits, target).item() == 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_masks_of_another_size_are_refused_with_both_shapes(loss):
    with pytest.raises(BuildError, match=r"\(3, 1, 12, 10\) and masks \(3, 6, 5\)"):
        value_of(loss, scene()[0], MaskTarget(torch.zeros(3, 6, 5)))


def test_smooth_must_be_positive():
    with pytest.raises(BuildError, match="smooth: must be positive, got 0"):
        DiceLoss(smooth=0)
