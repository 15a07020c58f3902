"""Rendering: path lengths, masks, contrast over time, and what must stay out of the mask."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from mlkit_angioseg.phantom import (
    Acquisition,
    CArm,
    Imaging,
    View,
    grow_tree,
    render_cine,
    render_frame,
)
from mlkit_angioseg.phantom.scene import chord_mm
from mlkit_angioseg.phantom.tubes import Tube, project_tubes, rasterise

CARM = CArm.for_size(192)
AP = View(0, 0)


def _straight_tube(direction, diameter, length=40.0):
    along = np.arange(-length / 2, length / 2 + 0.1, 0.5)
    points = along[:, None] * np.array(direction, dtype=float)
    return Tube(points, np.full(len(points), diameter), np.zeros(len(points)))


def test_the_path_through_the_axis_of_a_tube_is_its_diameter():
    path, _ = rasterise(project_tubes([_straight_tube((1, 0, 0), 6.0)], CARM, AP), CARM.size)
    middle = path[:, CARM.size // 2]
    assert middle.max() == pytest.approx(6.0, rel=0.03)


def test_the_profile_of_a_tube_is_the_chord_of_a_circle():
    carm = CArm()
    path, _ = rasterise(project_tubes([_straight_tube((1, 0, 0), 6.0)], carm, AP), carm.size)
    offset = (np.arange(carm.size) - carm.centre_px) * carm.mm_per_pixel
    chord = 2 * np.sqrt(np.maximum(9 - offset**2, 0))
    inner = np.abs(offset) < 2.7  # the soft edge of one pixel aside
    np.testing.assert_allclose(path[inner, 256], chord[inner], rtol=0.03)


@pytest.mark.parametrize("diameter", [3.0, 5.0])
def test_the_width_in_the_image_is_diameter_times_magnification_over_pitch(diameter):
    carm = CArm()
    _, mask = rasterise(project_tubes([_straight_tube((0, 0, 1), diameter)], carm, AP), carm.size)
    expected = diameter * (1000 / 750) / 0.3
    assert mask[carm.size // 2].sum() == pytest.approx(expected, abs=1)


def test_a_foreshortened_tube_is_darker_and_keeps_its_volume():
    across, _ = rasterise(project_tubes([_straight_tube((1, 0, 0), 4.0)], CARM, AP), CARM.size)
    along, _ = rasterise(project_tubes([_straight_tube((0, 1, 0), 4.0)], CARM, AP), CARM.size)
    volume = np.pi * 2**2 * 40
    pixel = CARM.mm_per_pixel**2
    assert across.sum() * pixel == pytest.approx(volume, rel=0.03)
    assert along.max() > 6 * across.max()


def test_crossing_tubes_add_their_paths():
    tubes = [_straight_tube((1, 0, 0), 4.0), _straight_tube((0, 0, 1), 4.0)]
    one, _ = rasterise(project_tubes(tubes[:1], CARM, AP), CARM.size)
    both, _ = rasterise(project_tubes(tubes, CARM, AP), CARM.size)
    centre = CARM.size // 2
    assert both[centre, centre] == pytest.approx(2 * one[centre, centre], rel=0.02)


def test_a_hair_thin_tube_is_drawn_at_least_one_and_a_half_pixels_wide():
    slices = project_tubes([_straight_tube((1, 0, 0), 0.2)], CARM, AP, min_width_px=1.5)
    path, mask = rasterise(slices, CARM.size)
    assert mask[:, CARM.size // 2].sum() in (1, 2)
    assert path.sum() * CARM.mm_per_pixel**2 == pytest.approx(np.pi * 0.01 * 40, rel=0.05)


def test_tubes_outside_the_field_leave_no_mark():
    tube = _straight_tube((0, 0, 1), 4.0)
    away = replace(tube, points_mm=tube.points_mm + np.array([300, 0, 0]))
    path, mask = rasterise(project_tubes([away], CARM, AP), CARM.size)
    assert path.max() == 0
    assert not mask.any()


def test_a_ray_through_the_centre_of_a_sphere_crosses_its_diameter():
    source, centre = np.array([0.0, 750, 0]), np.array([0.0, -10, 0])
    rays = np.array([[0.0, -1, 0], [1.0, 0, 0]])
    lengths = chord_mm(source, rays, centre, np.eye(3) * 25)
    np.testing.assert_allclose(lengths, [50, 0], atol=1e-9)


def test_vessels_are_darker_than_their_surroundings():
    frame = render_frame(grow_tree("right", 3), CARM, View(30, 0), 1)
    near = binary_dilation(frame.mask, iterations=6) & ~binary_dilation(frame.mask, iterations=2)
    assert frame.image[frame.mask].mean() < 0.93 * frame.image[near].mean()


def test_the_mask_covers_a_believable_share_of_the_image():
    shares = [
        render_frame(grow_tree(side, seed), CARM, View(20, 10), seed).mask.mean()
        for side in ("left", "right")
        for seed in range(4)
    ]
    assert min(shares) > 0.02
    assert max(shares) < 0.13


def test_the_catheter_darkens_the_image_but_is_not_in_the_mask():
    tree, seen = grow_tree("left", 2), Imaging(wire_chance=0)
    unseen = replace(seen, catheter_mu_per_mm=0.0)
    shown = Acquisition(tree, CARM, View(0, 0), 5, seen).frame()
    hidden = Acquisition(tree, CARM, View(0, 0), 5, unseen).frame()
    darker = hidden.image.astype(int) - shown.image > 8
    np.testing.assert_array_equal(shown.mask, hidden.mask)
    assert (darker & ~shown.mask).sum() > 100


def test_nothing_under_the_collimator_is_labelled():
    for seed in range(4):
        run = Acquisition(grow_tree("left", seed), CARM, View(0, 30), seed)
        assert not (run.frame().mask & ~run.open_mask).any()


def test_the_view_changes_the_mask_but_the_seed_of_the_scene_hardly():
    tree = grow_tree("left", 1)
    lao = render_frame(tree, CARM, View(40, 20), 0).mask
    rao = render_frame(tree, CARM, View(-30, 20), 0).mask
    overlap = 2 * (lao & rao).sum() / (lao.sum() + rao.sum())
    assert overlap < 0.5


def test_equal_seeds_render_equal_frames():
    tree = grow_tree("right", 1)
    one, same = (render_frame(tree, CARM, View(30, 0), 9) for _ in range(2))
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.mask, same.mask)


def test_a_cine_begins_empty_fills_and_washes_out():
    cine = render_cine(Acquisition(grow_tree("left", 4), CARM, View(0, 30), 2), 12)
    area = cine.masks.reshape(12, -1).sum(1)
    assert cine.images.shape == (12, 192, 192)
    assert area[0] == 0
    assert area[cine.frame_index] > 0.9 * area.max()
    assert area[2] < 0.6 * area.max()
    assert area[-1] < 0.6 * area.max()


@pytest.mark.parametrize("frames", [4, 7, 12, 30])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_labelled_frame_shows_the_whole_tree(side, frames):
    run = Acquisition(grow_tree(side, 11), CArm.for_size(64), View(0, 0), 0)
    cine = render_cine(run, frames)
    whole = run.frame(cine.frame_index / run.imaging.frame_rate_hz).mask
    np.testing.assert_array_equal(cine.masks[cine.frame_index], whole)


def test_the_heart_moves_the_vessels_between_frames():
    cine = render_cine(Acquisition(grow_tree("left", 4), CARM, View(0, 30), 2), 12)
    first, later = cine.masks[6], cine.masks[8]
    assert 0.3 < 2 * (first & later).sum() / (first.sum() + later.sum()) < 0.98


def test_twelve_bits_use_their_range():
    frame = render_frame(grow_tree("left", 0), CARM, AP, 0, Imaging(bits=12))
    assert frame.image.dtype == np.uint16
    assert 1500 < frame.image.max() <= 4095


def test_noise_follows_the_number_of_photons():
    def roughness(photons):
        imaging = Imaging(photons=photons, blur_px=1e-3)
        image = render_frame(grow_tree("right", 0), CARM, AP, 0, imaging).image.astype(float)
        return np.diff(image[60:130, 60:130], axis=1).std()

    assert roughness(500) > 1.8 * roughness(3000)  # sqrt(6) = 2.4, less the anatomy's share


def test_frames_are_fast_enough_for_a_demo():
    tree, carm = grow_tree("left", 0), CArm.for_size(256)
    render_frame(tree, carm, AP, 0)
    start = time.process_time()
    for seed in range(5):
        render_frame(tree, carm, AP, seed)
    assert (time.process_time() - start) / 5 < 0.25  # 0.03 s on an idle core


def test_bad_imaging_and_short_cines_are_refused():
    with pytest.raises(ValueError, match="bits must be 8 or 12, got 16"):
        Imaging(bits=16)
    with pytest.raises(ValueError, match="scatter"):
        Imaging(scatter=1.0)
    with pytest.raises(ValueError, match="at least 4 frames, got 3"):
        render_cine(Acquisition(grow_tree("left", 0), CARM, AP, 0), 3)
