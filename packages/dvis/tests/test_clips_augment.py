"""Frames and masks stay one upon the other whatever is drawn, in all frames of a clip alike."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mlkit_dvis.clips.augment import (
    View,
    ViewRange,
    draw_still_views,
    draw_view,
    shown_views,
    view_frames,
    view_masks,
)

RED, BLUE, GREY = (230, 20, 20), (20, 20, 230), (120, 120, 120)
SIZE = (90, 140)
LIMITS = ViewRange(
    short_sides=(48, 64, 80),
    longest=120,
    flip=0.5,
    crop=0.5,
    crop_sides=(70, 100),
    crop_range=(50, 90),
)


@pytest.fixture(scope="module")
def clip():
    """Return frames with a red square and a blue one, neither in the middle, and their masks."""
    frames = torch.tensor(GREY, dtype=torch.uint8).view(1, 3, 1, 1).expand(3, 3, *SIZE).clone()
    masks = torch.zeros(3, 2, *SIZE, dtype=torch.uint8)
    for t in range(3):
        for row, (colour, top, left) in enumerate(((RED, 10, 12 + 8 * t), (BLUE, 50, 90 - 8 * t))):
            part = (slice(top, top + 30), slice(left, left + 34))
            frames[t, :, part[0], part[1]] = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1)
            masks[t, row, part[0], part[1]] = 1
    return frames, masks


MIXED = 4  # pixels beside an edge that show both colours after a crop is scaled twice


def shrunk(mask):
    """Return a mask without its edge, which the frame's own border also is."""
    outside = functional.pad(1 - mask[None, None].float(), (MIXED,) * 4, value=1)
    return functional.max_pool2d(outside, 2 * MIXED + 1, 1)[0, 0] == 0


def grown(mask):
    """Return a mask with its surroundings, which the frame's own border also is."""
    inside = functional.pad(mask[None, None].float(), (MIXED,) * 4, value=1)
    return functional.max_pool2d(inside, 2 * MIXED + 1, 1)[0, 0] > 0


def check_colours(frames, masks):
    """Check that inside of each mask its colour is seen, and outside of all of them neither."""
    for frame, parts in zip(frames, masks, strict=True):
        for mask, colour in zip(parts, (RED, BLUE), strict=True):
            inside = frame[:, shrunk(mask)].float()
            wanted = torch.tensor(colour).view(3, 1)
            assert not inside.numel() or (inside - wanted).abs().max() < 12
        outside = frame[:, ~(grown(parts[0]) | grown(parts[1]))].float()
        assert (outside[0] - outside[2]).abs().max() < 12  # grey, whether of the frame or the fill


def check(clip, views):
    frames, masks = view_frames(clip[0], views, GREY), view_masks(clip[1], views)
    assert frames.shape[-2:] == masks.shape[-2:] == views[0].size
    assert set(masks.unique().tolist()) <= {0, 1}
    check_colours(frames, masks)
    return frames, masks


def test_nothing_changes_in_the_view_of_the_frame_itself(clip):
    frames, masks = check(clip, [View(SIZE)])
    assert torch.equal(frames, clip[0])
    assert torch.equal(masks, clip[1])


def test_a_mirrored_clip_keeps_colours_under_masks(clip):
    frames, masks = check(clip, [View(SIZE, flip=True)])
    assert torch.equal(frames.flip(-1), clip[0])
    assert torch.equal(masks.flip(-1), clip[1])


@pytest.mark.parametrize("size", [(45, 70), (180, 280), (61, 95), (60, 140)])
def test_a_resized_clip_keeps_colours_under_masks(clip, size):
    _, masks = check(clip, [View(size)])
    scale = size[0] * size[1] / (SIZE[0] * SIZE[1])
    sizes = masks.flatten(2).sum(-1) / scale
    assert (sizes - 30 * 34).abs().max() < 0.06 * 30 * 34


def test_a_cropped_clip_keeps_colours_under_masks(clip):
    _, masks = check(clip, [View((60, 80), before=SIZE, crop=(5, 10, 60, 80))])
    assert torch.equal(masks, clip[1][..., 5:65, 10:90])


def test_a_crop_of_a_resized_frame_is_resized_again(clip):
    _, masks = check(clip, [View((55, 66), before=(180, 280), crop=(20, 24, 110, 132))])
    # The first red square begins at row 20 and column 24 of the doubled frame: the crop's corner.
    assert masks[0, 0, :30, :34].all()
    assert masks[0, 0].sum() == 30 * 34


@pytest.mark.parametrize("angle", [-15.0, 7.5, 15.0, 90.0])
def test_a_turned_clip_keeps_colours_under_masks(clip, angle):
    _, masks = check(clip, [View(SIZE, angle_deg=angle, centre=(0.45, 0.55))])
    assert masks.any()


def test_a_positive_angle_turns_counterclockwise():
    frames = torch.zeros(1, 3, 21, 21, dtype=torch.uint8)
    masks = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    frames[..., 10, 15] = masks[..., 10, 15] = 1  # right of the middle
    view = [View((21, 21), angle_deg=90, centre=(0.5, 0.5))]
    turned = view_masks(masks, view)[0, 0].nonzero().tolist()
    assert len(turned) == 1
    assert turned[0][0] in (4, 5, 6)
    assert turned[0][1] in (9, 10, 11)  # above it now


@pytest.mark.parametrize("seed", range(30))
def test_a_drawn_clip_keeps_colours_under_masks(clip, seed):
    view = draw_view(LIMITS, SIZE, random.Random(seed))
    check(clip, [view])
    assert min(view.size) <= 80
    assert max(view.size) <= 120


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_still_image_keeps_colours_under_masks(clip, seed):
    limits = replace(LIMITS, rotation_deg=15.0)
    views = draw_still_views(limits, SIZE, 4, random.Random(seed))
    frames, _ = check((clip[0][:1], clip[1][:1]), views)
    assert len(frames) == 4


def test_one_draw_holds_for_all_frames_of_a_clip(clip):
    still = clip[0][:1].expand(3, -1, -1, -1), clip[1][:1].expand(3, -1, -1, -1)
    for seed in range(20):
        views = [draw_view(replace(LIMITS, rotation_deg=15.0), SIZE, random.Random(seed))]
        frames, masks = view_frames(still[0], views, GREY), view_masks(still[1], views)
        assert all(torch.equal(frames[0], frame) for frame in frames)
        assert all(torch.equal(masks[0], mask) for mask in masks)


def test_frames_of_a_still_image_differ_but_in_size_and_mirroring(clip):
    limits = replace(LIMITS, rotation_deg=15.0, crop=1.0)
    views = draw_still_views(limits, SIZE, 6, random.Random(3))
    assert len({(view.size, view.flip, view.before) for view in views}) == 1
    assert len({view.crop for view in views}) > 1
    assert len({view.angle_deg for view in views}) == 6
    assert all(abs(view.angle_deg) <= 15 for view in views)
    assert all(0.4 <= share <= 0.6 for view in views for share in view.centre)


def test_flips_and_crops_come_as_often_as_asked():
    generator = random.Random(0)
    views = [draw_view(replace(LIMITS, flip=0.5, crop=0.25), SIZE, generator) for _ in range(2000)]
    # Deviations of the shares are 0.011 and 0.010.
    assert abs(sum(view.flip for view in views) / 2000 - 0.5) < 0.055
    assert abs(sum(view.crop is not None for view in views) / 2000 - 0.25) < 0.05


def test_crops_lie_within_the_frame_and_the_range():
    generator = random.Random(0)
    for _ in range(500):
        view = draw_view(replace(LIMITS, crop=1.0), SIZE, generator)
        top, left, height, width = view.crop
        assert min(view.before) in (70, 100)
        assert 0 <= top <= view.before[0] - height
        assert 0 <= left <= view.before[1] - width
        assert 50 <= height <= 90
        assert 50 <= width <= 90


def test_a_view_never_exceeds_its_cap():
    generator = random.Random(0)
    limits = replace(LIMITS, cap=(40, 60))
    for _ in range(200):
        size = draw_view(limits, SIZE, generator).size
        assert size[0] <= 40
        assert size[1] <= 60


def test_views_show_an_instance_wherever_there_is_one():
    masks = torch.zeros(3, 1, *SIZE, dtype=torch.uint8)
    masks[:, :, 40:46, :6] = 1  # at the edge, where most crops miss it
    limits = replace(LIMITS, crop=1.0, crop_sides=(90,), crop_range=(50, 60))
    generator = random.Random(0)
    for _ in range(50):
        _, seen = shown_views(lambda drawn: [draw_view(drawn, SIZE, generator)], limits, masks)
        assert seen.any()


def test_a_crop_that_can_show_nothing_is_given_up():
    masks = torch.zeros(1, 1, *SIZE, dtype=torch.uint8)
    masks[..., 0, 0] = 1
    limits = replace(LIMITS, crop=1.0, crop_sides=(90,), crop_range=(50, 50), short_sides=(90,),
                     longest=140)  # fmt: skip
    generator = random.Random(1)
    for _ in range(10):
        _, seen = shown_views(lambda drawn: [draw_view(drawn, SIZE, generator)], limits, masks)
        assert seen.any()
