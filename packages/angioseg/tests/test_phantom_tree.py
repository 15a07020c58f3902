"""Coronary trees: anatomy, Murray's law, stenosis."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit_angioseg.phantom import Stenosis, daughter_diameter, grow_tree

SEEDS = range(6)
TRUNKS = {"LM", "LAD", "LCx", "RI", "RCA", "PDA", "PLV"}


def test_left_and_right_trees_hold_their_main_arteries():
    left = {branch.name for branch in grow_tree("left", 0).branches}
    right = {branch.name for branch in grow_tree("right", 0).branches}
    assert {"LM", "LAD", "LCx", "D1", "OM1"} <= left
    assert {"RCA", "PDA", "PLV", "AM", "PL1"} <= right


def test_equal_seeds_give_equal_trees_and_others_do_not():
    one, same, other = (grow_tree("left", seed).branch("LAD").points_mm for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or np.abs(one - other).max() > 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_diameters_are_those_of_adults(side, seed):
    tree = grow_tree(side, seed)
    ends = [branch.diameters_mm[-1] for branch in tree.branches]
    assert 3.2 < tree.branches[0].diameters_mm[0] < 4.7
    assert 0.3 < min(ends) < 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_left_main_divides_by_murrays_law(seed):
    tree = grow_tree("left", seed)
    daughters = [b.diameters_mm[0] for b in tree.branches if b.parent == "LM"]
    assert sum(d**3 for d in daughters) == pytest.approx(tree.branch("LM").diameters_mm[-1] ** 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_side_branch_obeys_murrays_law(side):
    tree = grow_tree(side, 2)
    joints = {(b.parent, b.origin) for b in tree.branches if b.name not in TRUNKS}
    for parent, origin in joints:
        trunk = tree.branch(parent).diameters_mm
        if origin > 0.55 * len(trunk):
            continue  # the distal part thins out besides
        daughters = [
            b.diameters_mm[0] for b in tree.branches if (b.parent, b.origin) == (parent, origin)
        ]
        cubes = sum(d**3 for d in daughters) + trunk[origin] ** 3
        # One step of taper, 0.1 % of the diameter, lies between the two samples.
        assert cubes == pytest.approx(trunk[origin - 1] ** 3, rel=0.01)


def test_arteries_taper_without_a_stenosis():
    for side in ("left", "right"):
        for branch in grow_tree(side, 1).branches:
            assert (np.diff(branch.diameters_mm) <= 1e-9).all()


def test_every_branch_begins_on_its_parent():
    for side in ("left", "right"):
        tree = grow_tree(side, 5)
        for branch in tree.branches[1:]:
            parent = tree.branch(branch.parent)
            np.testing.assert_allclose(branch.points_mm[0], parent.points_mm[branch.origin])
            assert branch.distance_mm[0] == pytest.approx(parent.distance_mm[branch.origin])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lad_runs_down_the_front_and_the_circumflex_to_the_back(seed):
    tree = grow_tree("left", seed)
    lad, circumflex = tree.branch("LAD").points_mm[-1], tree.branch("LCx").points_mm[-1]
    assert lad[2] < tree.ostium_mm[2] - 40  # lower
    assert lad[1] < circumflex[1] - 30  # more to the front: y grows to the back
    assert lad[0] > tree.ostium_mm[0] + 20  # to the patient's left


@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_artery_bulges_to_the_patients_right(seed):
    rca = grow_tree("right", seed).branch("RCA").points_mm
    assert rca[:, 0].min() < rca[0, 0] - 10
    assert rca[-1, 1] > rca[0, 1] + 20  # ends at the crux, at the back


def test_a_stenosis_takes_its_percentage_at_its_centre():
    plain = grow_tree("left", 7).branch("LAD").diameters_mm
    tight = grow_tree("left", 7, Stenosis("LAD", 0.5, 60, 12)).branch("LAD").diameters_mm
    assert (tight / plain).min() == pytest.approx(0.4, abs=0.01)
    assert ((tight / plain) < 0.999).sum() * 0.5 == pytest.approx(12, abs=1.1)


def test_a_stenosis_in_an_unknown_artery_names_the_arteries():
    with pytest.raises(ValueError, match="no branch 'RCA' in this tree; it has LM, LAD"):
        grow_tree("left", 0, Stenosis("RCA"))


def test_an_impossible_stenosis_is_refused():
    with pytest.raises(ValueError, match="percent between 0 and 100"):
        Stenosis("LAD", percent=100)


def test_an_unknown_side_is_refused():
    with pytest.raises(ValueError, match="side must be one of left, right, got 'middle'"):
        grow_tree("middle", 0)


def test_equal_daughters_are_a_cube_root_of_a_half_as_wide():
    equal = 2 * 0.5 ** (1 / 3)
    assert daughter_diameter(2.0, equal) == pytest.approx(equal)
    with pytest.raises(ValueError, match="thinner than the parent"):
        daughter_diameter(2.0, 2.0)


def test_the_heartbeat_returns_to_where_it_began_and_shortens_the_heart_between():
    tree = grow_tree("left", 0)
    points = tree.branch("LAD").points_mm
    np.testing.assert_allclose(tree.heart.beat(points, 1.0), points, atol=1e-9)
    systole = tree.heart.beat(points, 0.5)
    moved = np.linalg.norm(systole - points, axis=1)
    assert 2 < moved.max() < 15
