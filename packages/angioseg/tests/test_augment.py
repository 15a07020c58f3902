import math

import numpy as np
import pytest
import torch

from mlkit_angioseg.config import AugmentOptions
from mlkit_angioseg.frames.augment import augment
from mlkit_angioseg.frames.component import AngioFrames

OFF = dict.fromkeys(
    ("rotation_deg", "log_scale", "shift", "gamma", "contrast", "brightness", "shading"), 0.0
) | {"blur_px": 0.0, "noise": 0.0}


def options(**given):
    return AugmentOptions(**(OFF | given))


def run(grey, mask, chosen, seed=0, angles=(10.0, -5.0)):
    return augment(grey, mask, angles, chosen, np.random.default_rng(seed))


def frame(height=32, width=48):
    grey = torch.rand(1, height, width, generator=torch.Generator().manual_seed(0))
    grey = grey * 0.9 + 0.05
    return grey, (grey > 0.5).float()


def test_everything_switched_off_is_the_identity():
    grey, mask = frame()
    out = run(grey, mask, options())
    assert torch.allclose(out.grey, grey, atol=1e-5)
    assert torch.equal(out.mask, mask)
    assert out.valid.all()
    assert out.angles == (10.0, -5.0)


def test_one_seed_gives_one_result_and_another_seed_another():
    grey, mask = frame()
    first, again, other = (run(grey, mask, AugmentOptions(crop=24), s) for s in (1, 1, 2))
    assert torch.equal(first.grey, again.grey)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.grey, other.grey)
    assert first.grey.shape == (1, 24, 24)
    assert 0 <= first.grey.min() <= first.grey.max() <= 1


def test_a_crop_is_a_window_of_the_frame_in_image_and_mask_alike():
    grey, mask = frame()
    out = run(grey, mask, options(crop=16), seed=3)
    # Sub-pixel windows: compare with the frame sampled at the same place by plane interpolation.
    ramp = torch.arange(48.0).expand(1, 32, 48) / 100
    placed = run(ramp, mask, options(crop=16), seed=3).grey * 100
    assert torch.allclose(placed[0, 0].diff(), torch.ones(15), atol=1e-3)
    assert 0 <= placed.min() <= placed.max() <= 47.01
    assert set(out.mask.unique().tolist()) <= {0.0, 1.0}


def test_a_quarter_turn_turns_image_and_mask_the_same_way():
    grey, mask = frame(32, 32)

    where = options(rotation_deg=90)
    out = augment(grey, mask, (0.0, 0.0), where, _Highest())
    turns = [torch.rot90(grey, k, (1, 2)) for k in (1, 3)]
    errors = [float((out.grey - t).abs().max()) for t in turns]
    assert min(errors) < 1e-3
    expected = torch.rot90(mask, (1, 3)[int(np.argmin(errors))], (1, 2))
    assert torch.equal(out.mask, expected)


class _Highest:
    """A generator that always draws the upper bound, and zeros from a normal distribution."""

    def uniform(self, low, high):
        return high

    def normal(self, mean, deviation, size):
        return np.zeros(size)

    def random(self):
        return 1.0


def test_what_turns_into_view_from_outside_is_not_valid_and_holds_no_vessel():
    mask = torch.ones(1, 32, 32)
    out = run(torch.rand(1, 32, 32), mask, options(rotation_deg=45), seed=2)
    outside = ~out.valid
    assert outside.any()
    assert out.mask[outside].sum() == 0


def test_flips_negate_the_angle_that_they_mirror():
    grey, mask = frame(32, 32)
    seen = {}
    for seed in range(40):
        out = run(grey, mask, options(flips=True), seed)
        seen[out.angles] = out.grey
    assert set(seen) == {(10.0, -5.0), (-10.0, -5.0), (10.0, 5.0), (-10.0, 5.0)}
    assert torch.allclose(seen[(-10.0, -5.0)], grey.flip(2), atol=1e-5)
    assert torch.allclose(seen[(10.0, 5.0)], grey.flip(1), atol=1e-5)
    assert torch.allclose(seen[(-10.0, 5.0)], grey.flip(1, 2), atol=1e-5)


def test_by_default_nothing_is_mirrored_and_angles_stay():
    grey, mask = frame()
    assert {run(grey, mask, AugmentOptions(), s).angles for s in range(20)} == {(10.0, -5.0)}


def test_view_jitter_has_the_deviation_that_it_names():
    grey, mask = frame(16, 16)
    jitter = options(view_jitter_deg=4.0)
    drawn = np.array([run(grey, mask, jitter, s).angles for s in range(400)])
    assert drawn.mean(0) == pytest.approx((10, -5), abs=4 * 4 / math.sqrt(400))
    assert drawn.std(0) == pytest.approx((4, 4), rel=0.15)


def test_grey_changes_leave_the_mask_alone():
    grey, mask = frame()
    strong = options(gamma=0.5, contrast=0.5, brightness=0.1, noise=0.05, blur_px=2, shading=0.1)
    out = run(grey, mask, strong, seed=5)
    assert torch.equal(out.mask, mask)
    assert (out.grey - grey).abs().mean() > 0.01


def test_a_draw_alone_decides_what_load_gives(folder_data):
    data = AngioFrames(folder_data, size=24, augment={"crop": 16})
    [draw] = data.units("train", 7)[0]
    first = data.load(draw)
    torch.manual_seed(99)
    np.random.default_rng(99)
    again = AngioFrames(folder_data, size=24, augment={"crop": 16}).load(draw)
    assert torch.equal(first.inputs["image"], again.inputs["image"])
    assert first.inputs["image"].shape == (3, 16, 16)
    other = next(d for [d] in data.units("train", 8) if d.index == draw.index)
    assert not torch.equal(first.inputs["image"], data.load(other).inputs["image"])
