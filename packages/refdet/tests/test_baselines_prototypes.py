"""Prototype matching: areas and means by hand, and places that are found by their feature."""

from __future__ import annotations

import pytest
import torch

from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec, SampleMeta
from mlkit_refdet.baselines.box_contrast import box_contrast, box_sums
from mlkit_refdet.baselines.prototype_match import PrototypeMatch, foreground_mean
from mlkit_refdet.features import AskedFeatures

CHANNELS, STRIDES = {"p3": 8, "p4": 8}, {"p3": 8, "p4": 16}
QUERY = FeatureSpec(channels=CHANNELS, strides=STRIDES)
SUPPORT = FeatureSpec(channels=CHANNELS, strides=STRIDES, lead=("class", "shot"))
ASKED = FeatureSpec(vector_dim=2, type=AskedFeatures)
INPUTS = {"query": QUERY, "support": SUPPORT, "asked": ASKED}
META = (SampleMeta(key="image"),)


def test_box_sums_are_those_of_a_fine_grid_with_fractional_borders():
    torch.manual_seed(0)
    maps = torch.rand(2, 6, 7)
    boxes = torch.tensor([[0.5, 1.25, 3.75, 4.0], [2.0, 2.0, 3.0, 3.0], [5.5, 4.5, 9.0, 8.0]])
    sums, areas = box_sums(maps, boxes)
    fine = maps.repeat_interleave(4, 1).repeat_interleave(4, 2) / 16
    for place, (x0, y0, x1, y1) in enumerate((boxes * 4).int().tolist()):
        inside = fine[:, y0:y1, x0:x1].sum((1, 2))
        torch.testing.assert_close(sums[:, place], inside, atol=1e-5, rtol=0)
    assert areas.tolist() == [3.25 * 2.75, 1.0, 1.5 * 1.5]  # the last is cut at the border


def test_the_ring_is_the_surrounding_without_the_box():
    maps = torch.zeros(1, 9, 9)
    maps[0, 3:6, 3:6] = 1.0
    maps[0, 0:3, 3:6] = 0.5  # a third of the ring of 3x the side is 8 cells of 9; 9 of 72 are 0.5
    inside, around = box_contrast(maps, torch.tensor([[3.0, 3.0, 6.0, 6.0]]), ring=3.0)
    assert inside.item() == pytest.approx(1.0)
    assert around.item() == pytest.approx(9 * 0.5 / 72)


def test_the_foreground_mean_weighs_cells_by_their_share_of_the_mask():
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]).repeat(2, 1, 1, 1)
    mask = torch.zeros(2, 4, 4)
    mask[0, :2, :2] = 1  # the first cell whole
    mask[0, :2, 2:3] = 1  # half of the second
    assert foreground_mean(maps, mask)[0].item() == pytest.approx((1 + 0.5 * 3) / 1.5)
    assert foreground_mean(maps, mask)[1].item() == pytest.approx(4.0)  # an empty mask is none
    assert foreground_mean(maps, None)[0].item() == pytest.approx(4.0)


def scene(boxes: dict[int, tuple[int, int, int, int]], shots: int = 1, classes: int = 2):
    """A query whose feature within a class's box (cells of p3) is the class's own, and photos.

    Channel 7 is the ground's. A photo is 64 px; the object fills its middle, 32 px high, 16 wide.
    """
    torch.manual_seed(0)
    fine = 0.1 * torch.randn(1, 8, 16, 16)
    fine[:, 7] += 1
    for label, (x0, y0, x1, y1) in boxes.items():
        fine[:, 7, y0:y1, x0:x1] -= 1
        fine[:, label, y0:y1, x0:x1] += 1
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    photos = {
        level: torch.zeros(classes * shots, 8, side, side) for level, side in (("p3", 8), ("p4", 4))
    }
    for row in range(classes * shots):
        for level, (top, bottom, left, right) in (("p3", (2, 6, 3, 5)), ("p4", (1, 3, 1, 3))):
            photos[level][row, 7] = 1
            photos[level][row, :, top:bottom, left:right] = 0
            photos[level][row, row // shots, top:bottom, left:right] = 1
    mask = torch.zeros(classes * shots, 64, 64)
    mask[:, 16:48, 24:40] = 1
    valid = torch.ones(classes, shots, dtype=torch.bool)
    return {
        "query": Features(maps={"p3": fine, "p4": coarse}),
        "support": Features(maps=photos, mask=mask, valid=valid),
        "asked": AskedFeatures(vector=torch.arange(classes).float()[None]),
    }


def head_of(**options) -> PrototypeMatch:
    return PrototypeMatch(INPUTS, "query", sizes=(16.0, 32.0, 64.0), max_boxes=8, **options)


BOXES = {0: (2, 2, 4, 6), 1: (9, 10, 13, 12)}  # 16 x 32 px upright, 32 x 16 px turned


@pytest.mark.parametrize("options", [{}, {"shots": "max"}, {"center": False}, {"levels": ("p3",)}])
def test_objects_are_found_by_their_feature_at_the_right_size_and_aspect(options):
    head, scope = head_of(**options), scene(BOXES)
    [found] = head.decode(head(scope), META)
    for label, cells in BOXES.items():
        best = found.boxes_xyxy[found.labels == label][0]
        true = torch.tensor(cells).float() * 8
        torch.testing.assert_close(best, true, atol=6, rtol=0)
        assert found.scores[found.labels == label][0] > 0.6


def test_permuting_the_classes_permutes_the_output():
    head, scope = head_of(), scene(BOXES)
    support = scope["support"]
    swapped = dict(scope)
    swapped["support"] = Features(
        maps={level: maps.flip(0) for level, maps in support.maps.items()},
        mask=support.mask,
        valid=support.valid,
    )
    plain, other = head(scope), head(swapped)
    torch.testing.assert_close(plain.scores, other.scores.flip(1))
    torch.testing.assert_close(plain.boxes_xyxy, other.boxes_xyxy.flip(1))
    assert not torch.allclose(plain.boxes_xyxy, other.boxes_xyxy)


def test_images_do_not_depend_on_each_other():
    head, first, second = head_of(), scene(BOXES), scene({0: (8, 8, 10, 12)})
    both = dict(first)
    maps = {
        level: torch.cat([first["query"].maps[level], second["query"].maps[level]])
        for level in CHANNELS
    }
    both["query"] = Features(maps=maps)
    both["asked"] = AskedFeatures(vector=torch.tensor([[0.0, 1.0]] * 2))
    together = head(both)
    for row, scope in enumerate((first, second)):
        torch.testing.assert_close(together.scores[row], head(scope).scores[0])


def test_padded_shots_and_classes_that_are_not_asked_do_not_count():
    head, scope = head_of(), scene(BOXES, shots=2)
    support = scope["support"]
    spoilt = {level: maps.clone() for level, maps in support.maps.items()}
    for maps in spoilt.values():
        maps[1] = torch.randn_like(maps[1])  # the second shot of class 0
    valid = torch.tensor([[True, False], [True, True]])
    scope["support"] = Features(maps=spoilt, mask=support.mask, valid=valid)
    torch.testing.assert_close(head(scope).scores, head(scene(BOXES)).scores)
    scope["asked"] = AskedFeatures(vector=torch.tensor([[1.0, -1.0]]))
    output = head(scope)
    assert not output.scores[0, 1].any()
    assert set(head.decode(output, META)[0].labels.tolist()) == {1}


def test_an_absent_object_scores_far_below_one_that_is_there():
    output = head_of()(scene({0: BOXES[0]}))
    there, absent = output.scores[0].amax(1)
    assert absent < there - 0.3


def test_encoders_of_other_widths_are_refused_with_what_is_missing():
    narrow = FeatureSpec(channels={"p3": 4}, strides={"p3": 8}, lead=("class", "shot"))
    with pytest.raises(BuildError, match="maps of the query's widths"):
        PrototypeMatch({"query": QUERY, "support": narrow}, "query")
    with pytest.raises(BuildError, match="maps of the query's widths at p3, p9"):
        PrototypeMatch(INPUTS, "query", levels=("p3", "p9"))
