import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_dvis.losses.points import (
    class_loss,
    mask_point_losses,
    point_sample,
    random_points,
    uncertain_points,
)

MAP = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_points_are_read_bilinearly_between_pixel_centres_and_zero_outside():
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.25], [0.5, 0.5], [0.0, 0.0]]])
    values = point_sample(MAP, points)[0]
    # At a corner of the map three of four neighbours lie outside: a quarter of 1.
    assert values.tolist() == pytest.approx([1.0, 2.0, 1.5, 2.5, 0.25])


def test_shared_points_are_read_as_every_map_with_points_of_its_own():
    values, points = torch.randn(4, 5, 6, generator=rng()), torch.rand(1, 9, 2, generator=rng(1))
    own = point_sample(values, points.expand(4, -1, -1).contiguous())
    torch.testing.assert_close(point_sample(values, points), own, rtol=0, atol=1e-6)


def test_boolean_maps_are_read_as_zero_and_one():
    values = point_sample(MAP > 2, torch.tensor([[[0.5, 0.5], [0.5, 0.75]]]))
    assert values.tolist() == [[0.5, 1.0]]


def test_random_points_are_uniform_reproducible_and_of_the_asked_type():
    points = random_points(4000, rng(), torch.device("cpu"), torch.float64)
    assert points.shape == (1, 4000, 2)
    assert points.dtype == torch.float64
    assert torch.equal(points, random_points(4000, rng(), points.device, points.dtype))
    assert points.mean((0, 1)).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_uncertain_points_are_the_candidates_with_the_smallest_logits():
    logits = torch.randn(3, 8, 8, generator=rng(5))
    points = uncertain_points(logits, 40, rng(), oversample=3, importance=1.0)
    candidates = torch.rand(3, 120, 2, generator=rng())  # the same draw
    expected = point_sample(logits, candidates).abs().sort(1).values[:, :40]
    got = point_sample(logits, points).abs().sort(1).values
    torch.testing.assert_close(got, expected)


def test_a_quarter_of_the_points_is_uniform():
    # One uncertain column at x = 0.5, of a fifth of the map's width.
    logits = torch.tensor([-9.0, -9.0, 0.0, 9.0, 9.0]).expand(2, 5, 5).contiguous()
    points = uncertain_points(logits, 400, rng(), oversample=12)
    assert points.shape == (2, 400, 2)
    near = (points[:, :300, 0] - 0.5).abs() < 0.1
    assert near.all()
    assert (points[:, 300:, 0] - 0.5).abs().max() > 0.4
    assert ((points >= 0) & (points <= 1)).all()


def test_uncertain_points_of_no_mask_are_none():
    assert uncertain_points(torch.zeros(0, 4, 4), 7, rng()).shape == (0, 7, 2)


def test_uncertain_points_carry_no_gradient_and_keep_double_precision():
    logits = torch.randn(2, 4, 4, dtype=torch.float64, generator=rng(), requires_grad=True)
    points = uncertain_points(logits, 8, rng())
    assert not points.requires_grad
    assert points.dtype == torch.float64


def test_mask_losses_of_one_point_are_those_worked_by_hand():
    centre = torch.tensor([[[0.5, 0.5]]])
    logits = torch.tensor([[[0.0]], [[math.log(3)]]])  # probabilities 1/2 and 3/4
    targets = torch.tensor([[[True]], [[False]]])
    entropy, dice = mask_point_losses(logits, targets, centre)
    assert float(entropy) == pytest.approx(math.log(2) + math.log(4), rel=1e-6)
    first, second = 1 - (2 * 0.5 + 1) / (0.5 + 1 + 1), 1 - (0 + 1) / (0.75 + 0 + 1)
    assert float(dice) == pytest.approx(first + second, rel=1e-6)


def test_mask_entropy_is_a_mean_over_points_and_a_sum_over_masks():
    logits = torch.randn(3, 4, 5, generator=rng(), dtype=torch.float64)
    targets = torch.rand(3, 8, 10, generator=rng(1)) > 0.5
    points = torch.rand(3, 11, 2, generator=rng(2), dtype=torch.float64)
    entropy, dice = mask_point_losses(logits, targets, points)
    want_entropy, want_dice = 0.0, 0.0
    for n in range(3):
        at = point_sample(logits[n][None], points[n][None])[0]
        truth = point_sample(targets[n][None].double(), points[n][None])[0]
        want_entropy += float(F.binary_cross_entropy_with_logits(at, truth))
        probs = at.sigmoid()
        want_dice += float(1 - (2 * (probs * truth).sum() + 1) / (probs.sum() + truth.sum() + 1))
    assert float(entropy) == pytest.approx(want_entropy, rel=1e-12)
    assert float(dice) == pytest.approx(want_dice, rel=1e-12)


def test_class_loss_counts_no_object_a_tenth():
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, 0.0]])  # 2/4 for class 0; thirds
    loss = class_loss(logits, torch.tensor([0, 2]))
    assert float(loss.sum) == pytest.approx(math.log(2) + 0.1 * math.log(3), rel=1e-6)
    assert float(loss.count) == pytest.approx(1.1)


def test_class_loss_is_torchs_weighted_cross_entropy():
    logits = torch.randn(20, 6, generator=rng(), dtype=torch.float64)
    targets = torch.randint(0, 6, (20,), generator=rng())
    weight = torch.tensor([1.0] * 5 + [0.3], dtype=torch.float64)
    loss = class_loss(logits, targets, eos=0.3)
    expected = F.cross_entropy(logits, targets, weight)
    torch.testing.assert_close(loss.sum / loss.count, expected)


def test_rows_with_a_negative_class_are_left_out():
    logits = torch.randn(4, 3, generator=rng())
    whole = class_loss(logits, torch.tensor([1, -1, 2, -1]))
    rest = class_loss(logits[[0, 2]], torch.tensor([1, 2]))
    torch.testing.assert_close(whole.sum, rest.sum)
    assert float(whole.count) == float(rest.count)
