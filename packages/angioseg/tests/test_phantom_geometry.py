"""C-arm geometry: the worked points of the specification, section 8a."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit_angioseg.phantom import CArm, View, beam_axes

# Point mm, primary, secondary, column and row offset from the centre, derived in section 8a.
WORKED = [
    ((10, 0, 0), 0, 0, 44.444, 0.0),
    ((0, 0, 10), 0, 0, 0.0, -44.444),
    ((0, -20, 0), 30, 0, -43.444, 0.0),
    ((0, -20, 0), 0, 30, 0.0, 43.444),
]


@pytest.mark.parametrize(("point", "primary", "secondary", "column", "row"), WORKED)
def test_worked_points_fall_within_a_hundredth_of_a_pixel(point, primary, secondary, column, row):
    carm = CArm()
    found = carm.project([point], primary, secondary)
    assert found.column[0] - carm.centre_px == pytest.approx(column, abs=0.01)
    assert found.row[0] - carm.centre_px == pytest.approx(row, abs=0.01)


@pytest.mark.parametrize("angles", [(0, 0), (30, 0), (-45, 25), (60, -40), (180, 0), (-90, 90)])
def test_right_cross_up_points_to_the_detector(angles):
    towards, right, up = beam_axes(*angles)
    np.testing.assert_allclose(np.cross(right, up), towards, atol=1e-12)
    np.testing.assert_allclose([np.linalg.norm(v) for v in (towards, right, up)], 1)


def test_the_detector_is_in_front_in_ap_and_to_the_left_in_lao_90():
    np.testing.assert_allclose(beam_axes(0, 0).towards, (0, -1, 0), atol=1e-12)
    np.testing.assert_allclose(beam_axes(90, 0).towards, (1, 0, 0), atol=1e-12)


def test_the_spine_goes_right_in_lao_and_left_in_rao():
    carm, spine = CArm(), [(0, 70, 0)]
    assert carm.project(spine, 40, 0).column[0] > carm.centre_px + 50
    assert carm.project(spine, -40, 0).column[0] < carm.centre_px - 50


def test_the_isocentre_is_magnified_by_sid_over_sod():
    carm = CArm()
    assert carm.project([(0, 0, 0)], 20, 10).magnification[0] == pytest.approx(4 / 3)
    assert carm.mm_per_pixel == pytest.approx(0.225)


def test_points_near_the_source_are_magnified_more():
    near, far = CArm().project([(0, 50, 0), (0, -50, 0)], 0, 0).magnification
    assert near == pytest.approx(1000 / 700)
    assert far == pytest.approx(1000 / 800)


def test_a_binned_detector_keeps_its_field():
    small = CArm.for_size(128)
    assert small.size * small.pitch_mm == pytest.approx(512 * 0.3)


def test_a_ray_through_a_pixel_meets_the_point_projected_there():
    carm, view, point = CArm.for_size(64), View(-30, 20), np.array([12.0, -8.0, 17.0])
    found = carm.project([point], view.primary_deg, view.secondary_deg)
    source, rays = carm.rays(view)
    ray = rays[round(found.row[0]), round(found.column[0])]
    miss = np.linalg.norm(np.cross(point - source, ray))
    assert miss < carm.mm_per_pixel  # half a pixel's diagonal at most


def test_a_point_behind_the_source_is_refused():
    with pytest.raises(ValueError, match="behind the source"):
        CArm().project([(0, 800, 0)], 0, 0)


def test_points_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"points_mm must be \[N, 3\], got \[3\]"):
        CArm().project([1, 2, 3], 0, 0)


def test_impossible_geometry_and_angles_are_refused():
    with pytest.raises(ValueError, match="sod_mm < sid_mm"):
        CArm(sod_mm=1000, sid_mm=900)
    with pytest.raises(ValueError, match="secondary_deg"):
        View(0, 95)
    with pytest.raises(ValueError, match="primary_deg"):
        View(float("nan"), 0)
