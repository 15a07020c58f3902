"""The proof set: only the view tells the label."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label, regionprops

from mlkit_angioseg.phantom import (
    View,
    family_of_view,
    local_width,
    no_view_bound,
    proof_image,
    view_of_family,
    write_proof,
    write_semi_synthetic,
)


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def _mask(path):
    return np.asarray(Image.open(path)) > 0


def test_the_bound_is_two_over_one_plus_k():
    assert no_view_bound(2) == pytest.approx(2 / 3)
    assert no_view_bound(4) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="at least 2"):
        no_view_bound(1)


@pytest.mark.parametrize("families", [2, 3, 4, 5])
def test_marking_all_families_scores_the_bound(families):
    rng = np.random.default_rng(0)
    images = [proof_image(96, families, rng) for _ in range(6)]
    scores = [_dice(made.masks.any(0), mask) for made in images for mask in made.masks]
    assert np.mean(scores) == pytest.approx(no_view_bound(families), abs=0.02)


def test_marking_fewer_families_scores_less():
    made = [proof_image(96, 4, np.random.default_rng(seed)) for seed in range(6)]
    means = [
        np.mean([_dice(m.masks[:n].any(0), label) for m in made for label in m.masks])
        for n in (1, 2, 3, 4)
    ]
    assert means == sorted(means)


def test_families_are_disjoint_and_equal_in_area():
    rng = np.random.default_rng(1)
    made = [proof_image(96, 4, rng) for _ in range(20)]
    assert all(m.masks.sum(0).max() == 1 for m in made)
    area = np.array([m.masks.sum((1, 2)) for m in made]).mean(0)
    assert area.max() / area.min() < 1.05


def test_families_share_places_and_darkness():
    rng = np.random.default_rng(2)
    made = [proof_image(96, 4, rng) for _ in range(40)]
    rows, columns = np.mgrid[:96, :96]
    place = np.array([[[rows[f].mean(), columns[f].mean()] for f in m.masks] for m in made]).mean(0)
    grey = np.array([[m.image[f].mean() for f in m.masks] for m in made]).mean(0)
    # A mean of 40 images has a standard error of 1.2 px and 1.5 grey levels.
    assert np.abs(place - 47.5).max() < 4
    assert np.ptp(grey) < 6


def test_families_differ_in_orientation_by_the_band():
    made = proof_image(128, 4, np.random.default_rng(3))
    for family, mask in enumerate(made.masks):
        for region in regionprops(label(mask)):
            degrees = np.degrees(region.orientation) + 90  # skimage measures from the rows' axis
            off = (degrees - 45 * family + 90) % 180 - 90
            assert abs(off) < 22.5


@pytest.mark.parametrize("families", [2, 3, 4, 6])
def test_a_view_drawn_for_a_family_names_it(families):
    rng = np.random.default_rng(0)
    for family in range(families):
        for _ in range(20):
            assert family_of_view(view_of_family(family, families, rng), families) == family


def test_quadrants_are_named_and_views_keep_away_from_their_edges():
    assert [family_of_view(View(*a), 4) for a in ((-9, -9), (9, -9), (-9, 9), (9, 9))] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    views = [view_of_family(f, 4, rng) for f in range(4) for _ in range(50)]
    assert min(min(abs(v.primary_deg), abs(v.secondary_deg)) for v in views) >= 6


@pytest.mark.parametrize("families", [2, 4])
def test_flipped_angles_name_another_family(families):
    rng = np.random.default_rng(0)
    for family in range(families):
        view = view_of_family(family, families, rng)
        flipped = View(-view.primary_deg, -view.secondary_deg)
        assert family_of_view(flipped, families) == families - 1 - family


def test_written_labels_are_the_family_that_the_angles_name(tmp_path):
    rows = _rows(write_proof(tmp_path, count=12, families=4, seed=5))
    families = []
    for row in rows:
        view = View(float(row["primary_angle"]), float(row["secondary_angle"]))
        families.append(family_of_view(view, 4))
        name = row["image"].replace(".png", f"_f{families[-1]}.png")
        label = _mask(tmp_path / "masks" / row["image"])
        np.testing.assert_array_equal(label, _mask(tmp_path / "masks_all" / name))
    assert sorted(families) == sorted([0, 1, 2, 3] * 3)
    assert len({row["patient"] for row in rows}) == 12


def test_written_images_come_from_a_stream_that_no_angle_touches(tmp_path):
    rows = _rows(write_proof(tmp_path, count=4, seed=1))
    looks = np.random.default_rng(np.random.SeedSequence(1).spawn(1)[0])
    for row in rows:
        written = np.asarray(Image.open(tmp_path / "images" / row["image"]))
        np.testing.assert_array_equal(written, proof_image(96, 4, looks).image)


def test_a_crowded_image_still_comes_out():
    made = proof_image(64, 6, np.random.default_rng(0))
    assert made.masks.any((1, 2)).all()


def test_proof_arguments_out_of_range_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="size must be at least 64, got 32"):
        proof_image(32, 4, rng)
    with pytest.raises(ValueError, match=r"families must lie in 2\.\.6, got 9"):
        proof_image(96, 9, rng)
    with pytest.raises(ValueError, match=r"family must lie in 0\.\.3, got 4"):
        view_of_family(4, 4, rng)


def _two_bars():
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:13, 5:60] = True
    mask[40:49, 5:60] = True
    return mask


def test_local_width_is_that_of_each_bar():
    width = local_width(_two_bars())
    assert width[11, 20:40] == pytest.approx(4, abs=0.5)
    assert width[44, 20:40] == pytest.approx(10, abs=0.5)
    assert width[25, 30] == 0


def test_semi_synthetic_labels_are_wide_in_lao_and_narrow_in_rao(tmp_path):
    mask = _two_bars()
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(6):
        image = np.where(mask, 80, 120).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / f"{index}.png")
    source = {"images": tmp_path / "images", "masks": tmp_path / "masks"}
    table = write_semi_synthetic(tmp_path / "out", **source, width_px=6)
    rows = _rows(table)
    assert sum(float(row["primary_angle"]) > 0 for row in rows) == 3
    for row in rows:
        label = _mask(tmp_path / "out" / "masks" / row["image"])
        wide = float(row["primary_angle"]) > 0
        assert label[44, 30] == wide
        assert label[11, 30] != wide
        assert not label[25, 30]


def test_semi_synthetic_needs_masks_and_known_patients(tmp_path):
    with pytest.raises(ValueError, match="no PNG"):
        write_semi_synthetic(tmp_path / "out", images=tmp_path, masks=tmp_path / "none")
