import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError, TrainingError
from mlkit_dvis.losses.points import point_sample
from mlkit_dvis.matching import hungarian, hungarian_many, match_cost


def case(queries=5, instances=3, frames=None, points=40):
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    lead = () if frames is None else (frames,)
    logits, masks = rand(queries, 5), rand(queries, *lead, 6, 7)
    targets = rand(instances, *lead, 12, 14) > 0
    places = torch.rand(1, points, 2, generator=generator, dtype=torch.float64)
    return logits, masks, torch.tensor([3, 0, 1])[:instances], targets, places


def test_cost_equals_an_explicit_loop_over_pairs():
    logits, masks, labels, targets, points = case()
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for query in range(5):
        at_points = point_sample(masks[query][None], points)[0]
        for instance in range(3):
            truth = point_sample(targets[instance][None].double(), points)[0]
            probs = at_points.sigmoid()
            dice = 1 - (2 * (probs * truth).sum() + 1) / (probs.sum() + truth.sum() + 1)
            entropy = F.binary_cross_entropy_with_logits(at_points, truth)
            likely = logits[query].softmax(0)[labels[instance]]
            expected[query, instance] = -2 * likely + 5 * entropy + 5 * dice
    torch.testing.assert_close(match_cost(*case()), expected, rtol=0, atol=1e-12)


def test_cost_of_one_point_is_that_worked_by_hand():
    cost = match_cost(
        torch.zeros(1, 2),  # the class has probability 1/2
        torch.zeros(1, 1, 1),
        torch.tensor([0]),
        torch.ones(1, 1, 1, dtype=torch.bool),
        torch.tensor([[[0.5, 0.5]]]),
        weights=(1.0, 10.0, 100.0),
    )
    dice = 1 - (2 * 0.5 + 1) / (0.5 + 1 + 1)
    assert float(cost) == pytest.approx(-0.5 + 10 * math.log(2) + 100 * dice, rel=1e-6)


def test_frames_of_a_clip_are_joined_along_the_height():
    logits, masks, labels, targets, points = case(frames=4)
    joined = match_cost(
        logits,
        torch.cat([*masks.transpose(0, 1)], 1),
        labels,
        torch.cat([*targets.transpose(0, 1)], 1),
        points,
    )
    assert torch.equal(match_cost(*case(frames=4)), joined)


def test_cost_carries_no_gradient():
    logits, masks, labels, targets, points = case()
    cost = match_cost(logits.requires_grad_(), masks.requires_grad_(), labels, targets, points)
    assert not cost.requires_grad


def test_cost_of_no_instance_is_an_empty_matrix_without_matches():
    logits, masks, labels, targets, points = case()
    cost = match_cost(logits, masks, labels[:0], targets[:0], points)
    assert cost.shape == (5, 0)
    assert [len(side) for side in hungarian(cost)] == [0, 0]


def test_masks_of_frames_are_not_compared_with_masks_of_clips():
    logits, masks, labels, targets, points = case()
    with pytest.raises(BuildError, match="must both be"):
        match_cost(logits, masks, labels, targets[:, None], points)


def test_assignment_of_three_by_three_is_the_cheapest():
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    rows, cols = hungarian(cost)  # 1 + 2 + 2; the greedy choice of 0 would cost 0 + 3 + 3 or more
    assert (rows.tolist(), cols.tolist()) == ([0, 1, 2], [1, 0, 2])
    assert rows.dtype == cols.dtype == torch.int64


def test_more_instances_than_queries_leave_instances_over():
    rows, cols = hungarian(torch.tensor([[5.0, 1.0, 9.0], [0.0, 2.0, 9.0]]))
    assert (rows.tolist(), cols.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_not_finite_is_refused(value):
    cost = torch.ones(3, 3)
    cost[1, 1] = value
    with pytest.raises(TrainingError, match="1 of 9 costs are not finite"):
        hungarian(cost)


def test_many_matrices_are_assigned_as_one_by_one():
    generator = torch.Generator().manual_seed(2)
    costs = [torch.randn(size, generator=generator) for size in ((4, 3), (4, 0), (2, 5))]
    for (rows, cols), cost in zip(hungarian_many(costs), costs, strict=True):
        alone = hungarian(cost)
        assert torch.equal(rows, alone[0])
        assert torch.equal(cols, alone[1])
    assert hungarian_many([]) == []
