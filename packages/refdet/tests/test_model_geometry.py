"""Cells, distances and boxes; prototypes of several shots."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional
from ultralytics.utils import tal

from mlkit_core.errors import BuildError
from mlkit_refdet.head.geometry import (
    anchor_points,
    boxes_to_distances,
    distances_to_boxes,
    expectation,
)
from mlkit_refdet.prototypes import aggregate

STRIDES = {"p3": 8, "p4": 16, "p5": 32}


def maps(size=128):
    return {name: torch.zeros(1, 4, size // s, size // s) for name, s in STRIDES.items()}


def test_cells_lie_where_ultralytics_puts_them():
    points, strides = anchor_points(maps(), STRIDES)
    theirs, stride = tal.make_anchors(list(maps().values()), torch.tensor([8, 16, 32]), 0.5)
    torch.testing.assert_close(points, theirs * stride)
    torch.testing.assert_close(strides, stride[:, 0])


def test_boxes_survive_being_coded_on_every_stride():
    points, strides = anchor_points(maps(), STRIDES)
    reach = torch.tensor([2.2, 0.4, 7.9, 13.0]) * strides[:, None]
    boxes = torch.cat((points - reach[:, :2], points + reach[:, 2:]), 1)
    back = distances_to_boxes(boxes_to_distances(boxes, points, strides), points, strides)
    assert (back - boxes).abs().max() < 1e-3


def test_boxes_decode_as_ultralytics_decodes_them():
    points, strides = anchor_points(maps(), STRIDES)
    ltrb = torch.rand(len(points), 4, generator=torch.Generator().manual_seed(0)) * 10
    theirs = tal.dist2bbox(ltrb, points / strides[:, None], xywh=False) * strides[:, None]
    torch.testing.assert_close(distances_to_boxes(ltrb, points, strides), theirs)


def test_a_box_beyond_fifteen_strides_fits_only_on_coarser_levels():
    points, strides = anchor_points(maps(512), STRIDES)
    middle = torch.tensor([256.0, 256.0])
    box = torch.cat((middle - 200, middle + 200))  # 200 px from its middle: 25, 12.5, 6.25 strides
    near = (points - middle).norm(dim=1)
    for stride, fits in ((8, False), (16, True), (32, True)):
        own = torch.where(strides == stride, near, torch.inf).argmin()[None]
        back = distances_to_boxes(
            boxes_to_distances(box[None], points[own], strides[own]), points[own], strides[own]
        )
        assert ((back - box).abs().max() < 1e-2) == fits


def test_the_expectation_is_that_of_the_distribution():
    logits = torch.full((1, 1, 64), -100.0)
    logits[..., 3], logits[..., 16 + 5], logits[..., 16 + 6] = 100, 100, 100
    logits[..., 32], logits[..., 63] = 100, 100
    torch.testing.assert_close(expectation(logits), torch.tensor([[[3.0, 5.5, 0.0, 15.0]]]))


def shots(n=2, k=3, dim=5):
    drawn = torch.randn(n * k, dim, generator=torch.Generator().manual_seed(1))
    return functional.normalize(drawn, dim=-1)


def test_only_real_shots_count():
    valid = torch.tensor([[True, True, False], [True, False, False]])
    for how in ("mean", "geomedian", "max", "attention"):
        changed = shots()
        changed[[2, 4, 5]] = functional.normalize(torch.ones(3, 5), dim=-1)
        torch.testing.assert_close(
            aggregate(shots(), valid, how), aggregate(changed, valid, how), msg=how
        )
        torch.testing.assert_close(aggregate(shots(), valid, how)[1], shots()[3])


def test_the_mean_is_that_of_unit_vectors_and_unit_again():
    found = aggregate(shots(), torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(found[0], functional.normalize(shots()[:3].mean(0), dim=0))


def test_the_geometric_median_is_where_the_sum_of_distances_is_least():
    own = shots(1, 4).double()
    result = minimize(
        lambda x: (own - torch.tensor(x)).norm(dim=1).sum().item(),
        own.mean(0).numpy(),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20000},
    )
    expected = functional.normalize(torch.tensor(result.x), dim=0)
    found = aggregate(own, torch.ones(1, 4, dtype=torch.bool), "geomedian")[0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("how", ["mean", "geomedian", "max", "attention"])
def test_a_class_without_shots_is_zero_and_has_a_gradient_that_is_a_number(how):
    own = shots().requires_grad_()
    valid = torch.tensor([[True, True, True], [False, False, False]])
    found = aggregate(own, valid, how)
    assert found[1].abs().max() == 0
    found[0].sum().backward()
    assert own.grad.isfinite().all()


def test_rows_that_fit_no_shots_are_refused():
    with pytest.raises(BuildError, match=r"6 rows for \(2, 2\) shots"):
        aggregate(shots(), torch.ones(2, 2, dtype=torch.bool))
