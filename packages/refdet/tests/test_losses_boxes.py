"""Overlap losses against torchvision, the papers' formulas and values worked out by hand."""

import math

import pytest
import torch
from torchvision.ops import box_iou, complete_box_iou_loss

from mlkit_core.errors import BuildError
from mlkit_refdet.losses.boxes import (
    RunningMean,
    ciou,
    overlap,
    wiou_v1,
    wiou_v2,
    wiou_v3,
)
from mlkit_refdet.losses.detection import BoxIou

# Half of one lies on the other: IoU 1/3, centres 5 apart, the box around both is 15 x 10.
BOX, TRUTH = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 15.0, 10.0]])
V1 = math.exp(25 / 325) * 2 / 3


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50
    sides = 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40
    return torch.cat([low, low + sides], 1)


def test_complete_iou_and_its_gradient_equal_torchvision():
    boxes, truth = random_boxes(200, 0).requires_grad_(), random_boxes(200, 1)
    ours, theirs = 1 - ciou(boxes, truth), complete_box_iou_loss(boxes, truth)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (mine,) = torch.autograd.grad(ours.sum(), boxes)
    (wanted,) = torch.autograd.grad(theirs.sum(), boxes)
    torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_overlap_broadcasts_to_all_pairs_as_torchvision():
    boxes, others = random_boxes(20, 0), random_boxes(30, 1)
    torch.testing.assert_close(
        overlap(boxes[:, None], others).iou, box_iou(boxes, others), rtol=1e-6, atol=1e-8
    )


def test_wise_iou_v1_by_hand():
    assert float(wiou_v1(overlap(BOX, TRUTH))) == pytest.approx(V1, rel=1e-6)


def test_wise_iou_v2_by_hand():
    # The loss 2/3 is twice the mean: the focus is the root of 2.
    value = wiou_v2(overlap(BOX, TRUTH), torch.tensor(1 / 3))
    assert float(value) == pytest.approx(math.sqrt(2) * V1, rel=1e-5)


def test_wise_iou_v3_by_hand():
    # Outlier degree 2: gain 2 / (3 * 1.9^-1). At degree delta the gain is 1.
    pair = overlap(BOX, TRUTH)
    assert float(wiou_v3(pair, torch.tensor(1 / 3))) == pytest.approx(2 * 1.9 / 3 * V1, rel=1e-5)
    assert float(wiou_v3(pair, torch.tensor(2 / 9))) == pytest.approx(V1, rel=1e-5)


def test_the_gain_of_v3_peaks_at_ordinary_boxes_and_falls_for_outliers():
    # d(gain)/d(degree) = 0 at degree 1 / ln(alpha) = 1.558.
    degrees = torch.linspace(0.05, 8, 400)
    gains = degrees / (3 * 1.9 ** (degrees - 3))
    mean = (1 - overlap(BOX, TRUTH).iou) / degrees
    values = torch.cat([wiou_v3(overlap(BOX, TRUTH), m) for m in mean]) / V1
    torch.testing.assert_close(values, gains, rtol=1e-4, atol=1e-5)
    assert float(degrees[values.argmax()]) == pytest.approx(1 / math.log(1.9), abs=0.02)


def test_size_of_the_hull_and_focus_pass_no_gradient():
    boxes = BOX.clone().requires_grad_()
    wiou_v3(overlap(boxes, TRUTH), torch.tensor(1 / 3)).sum().backward()
    moved = BOX.clone().requires_grad_()
    centre = (moved[:, :2] + moved[:, 2:] - TRUTH[:, :2] - TRUTH[:, 2:]) / 2
    attention = (centre.square().sum(1) / 325).exp()
    iou = box_iou(moved, TRUTH)[0]
    (2 * 1.9 / 3 * attention * (1 - iou)).sum().backward()
    torch.testing.assert_close(boxes.grad, moved.grad, rtol=1e-4, atol=1e-6)


def test_boxes_that_do_not_touch_still_get_a_gradient_towards_the_truth():
    far = torch.tensor([[30.0, 0.0, 40.0, 10.0]], requires_grad=True)
    wiou_v1(overlap(far, TRUTH)).sum().backward()
    assert (far.grad[0, [0, 2]] > 0).all()


def test_the_running_mean_starts_at_its_first_value_and_follows_by_its_momentum():
    running = RunningMean(0.01)
    running.update(torch.tensor(0.5))
    assert float(running.mean(torch.tensor(9.0))) == pytest.approx(0.5)
    running.update(torch.tensor(0.3))
    by_hand = (0.99 * 0.5 + 0.3) / (0.99 + 1)
    assert float(running.mean(torch.tensor(9.0))) == pytest.approx(by_hand, rel=1e-5)
    for _ in range(2000):
        running.update(torch.tensor(0.8))
    before = float(running.mean(torch.tensor(9.0)))
    assert before == pytest.approx(0.8, rel=1e-4)
    running.update(torch.tensor(0.0))
    assert float(running.mean(torch.tensor(9.0))) == pytest.approx(0.99 * before, rel=1e-4)


def test_the_running_mean_moves_in_training_alone_in_place_and_is_saved():
    loss = BoxIou().train()
    buffers = {name: buffer.data_ptr() for name, buffer in loss.named_buffers()}
    loss.per_box(BOX, TRUTH, "pairs")
    assert {name: buffer.data_ptr() for name, buffer in loss.named_buffers()} == buffers
    mean = loss.means["pairs"].mean(torch.tensor(9.0))
    assert float(mean) == pytest.approx(2 / 3, rel=1e-5)
    assert float(loss.means["standard"].weight) == 0
    loss.eval().per_box(BOX, BOX, "pairs")
    other = BoxIou()
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.means["pairs"].mean(torch.tensor(9.0)), mean)


def test_v3_of_the_component_compares_with_the_mean_that_it_kept():
    loss = BoxIou().train()
    loss.per_box(BOX, TRUTH, "pairs")  # the mean is 2/3: degree 1
    value = loss.eval().per_box(BOX, TRUTH, "pairs")
    assert float(value) == pytest.approx(1 / (3 * 1.9**-2) * V1, rel=1e-5)


def test_a_batch_without_positives_leaves_the_running_mean_alone():
    loss = BoxIou().train()
    assert loss.per_box(BOX[:0], TRUTH[:0], "pairs").shape == (0,)
    assert float(loss.means["pairs"].weight) == 0


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(BuildError, match="momentum 0"):
        BoxIou(momentum=0)
    with pytest.raises(BuildError, match="alpha 1"):
        BoxIou(alpha=1)
