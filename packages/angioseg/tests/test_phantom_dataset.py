"""Written phantom data sets: the seed's CSV layout, the folder layout, splits by patient."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlkit_angioseg.phantom import clinical_views, write_phantom
from mlkit_angioseg.phantom.layout import split_patients


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def seed_layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return write_phantom(folder, trees=6, views_per_tree=2, size=64, frames=5, seed=3)


def test_the_header_is_that_of_the_seed(seed_layout):
    assert seed_layout.read_text().splitlines()[0] == (
        "cine_path,vessel_mask_actual_path,contours_path,frame_index,split,case_id,"
        "primary_angle,secondary_angle"
    )


def test_every_row_names_a_cine_a_mask_and_contours_by_relative_paths(seed_layout):
    rows = _rows(seed_layout)
    assert len(rows) == 12
    for row in rows:
        assert not Path(row["cine_path"]).is_absolute()
        cine = np.load(seed_layout.parent / row["cine_path"], mmap_mode="r")
        mask = np.load(seed_layout.parent / row["vessel_mask_actual_path"])
        assert cine.shape == (5, 64, 64)
        assert cine.dtype == np.uint8
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 1}
        assert int(row["frame_index"]) in range(5)


def test_the_json_holds_the_angles_of_the_row_and_the_spacing(seed_layout):
    for row in _rows(seed_layout):
        contours = json.loads((seed_layout.parent / row["contours_path"]).read_text())
        angles = contours["view_angles"]
        assert angles["primary_angle"] == float(row["primary_angle"])
        assert angles["secondary_angle"] == float(row["secondary_angle"])
        assert contours["calibration"]["imager_pixel_spacing_mm"] == [2.4, 2.4]


def test_no_patient_is_in_two_splits(seed_layout):
    splits = defaultdict(set)
    for row in _rows(seed_layout):
        splits[row["case_id"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_the_views_of_a_patient_fall_in_several_bins(seed_layout):
    bins = {
        (float(row["primary_angle"]) > 0, float(row["secondary_angle"]) > 0)
        for row in _rows(seed_layout)
    }
    assert len(bins) >= 3


def test_equal_seeds_write_equal_files(tmp_path):
    paths = [
        write_phantom(tmp_path / name, trees=3, views_per_tree=1, size=64, frames=4)
        for name in ("a", "b")
    ]
    one, other = (sorted(p for p in path.parent.rglob("*") if p.is_file()) for path in paths)
    assert [p.name for p in one] == [p.name for p in other]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other, strict=True))


def test_the_folder_layout_holds_images_masks_and_angles(tmp_path):
    table = write_phantom(tmp_path, trees=3, views_per_tree=2, size=64, layout="folder")
    rows = _rows(table)
    assert list(rows[0]) == ["image", "patient", "split", "primary_angle", "secondary_angle"]
    for row in rows:
        image = np.asarray(Image.open(tmp_path / "images" / row["image"]))
        mask = np.asarray(Image.open(tmp_path / "masks" / row["image"]))
        assert image.shape == mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}


def test_patients_are_alternately_left_and_right(seed_layout):
    sides = {
        row["case_id"]: json.loads((seed_layout.parent / row["contours_path"]).read_text())["side"]
        for row in _rows(seed_layout)
    }
    assert [sides[case] for case in sorted(sides)] == ["left", "right"] * 3


@pytest.mark.parametrize("count", [3, 7, 10, 40])
def test_split_sizes_follow_the_fractions(count):
    names = split_patients(count, (0.6, 0.2, 0.2), np.random.default_rng(0))
    sizes = [names.count(name) for name in ("train", "val", "test")]
    assert sum(sizes) == count
    assert min(sizes) >= 1
    assert abs(sizes[0] - 0.6 * count) <= 1


def test_a_split_of_zero_gets_nobody():
    assert "val" not in split_patients(9, (0.8, 0.0, 0.2), np.random.default_rng(0))


def test_views_repeat_only_when_the_list_is_used_up():
    views = clinical_views("left", 6, np.random.default_rng(0))
    angles = np.array([(v.primary_deg, v.secondary_deg) for v in views])
    apart = np.linalg.norm(angles[:, None] - angles[None], axis=-1)
    assert len(views) == 6
    assert apart[np.triu_indices(6, 1)].min() > 3
    assert len(clinical_views("right", 13, np.random.default_rng(0))) == 13


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="layout must be 'csv' or 'folder', got 'zip'"):
        write_phantom(tmp_path, layout="zip")
    with pytest.raises(ValueError, match="at least one tree"):
        write_phantom(tmp_path, trees=0)
    with pytest.raises(ValueError, match="sum to 1"):
        write_phantom(tmp_path, split=(0.5, 0.2, 0.2))
    with pytest.raises(ValueError, match="3 splits need as many patients, got 2"):
        write_phantom(tmp_path, trees=2)
    with pytest.raises(ValueError, match="at least 4 frames"):
        write_phantom(tmp_path, frames=2)
    with pytest.raises(ValueError, match="stenosis_share"):
        write_phantom(tmp_path, stenosis_share=2)
