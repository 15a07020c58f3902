"""Groups of classes: COCO's twelve, and any others from a file."""

import pytest

from mlkit_cluster.images.annotations import match_names
from mlkit_cluster.images.categories import COCO_NAMES, supercategories
from mlkit_core.errors import InputError


def test_coco_has_80_classes_in_12_groups():
    groups = supercategories(COCO_NAMES)
    assert len(COCO_NAMES) == len(groups.groups) == 80
    counts = [groups.groups.count(index) for index in range(12)]
    assert counts == [1, 8, 5, 10, 5, 10, 7, 10, 6, 6, 5, 7]
    assert groups.names[10:] == ("appliance", "indoor")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("person", "person"), ("truck", "vehicle"), ("bench", "outdoor"), ("bird", "animal"),
        ("suitcase", "accessory"), ("tennis racket", "sports"), ("bottle", "kitchen"),
        ("cake", "food"), ("toilet", "furniture"), ("cell phone", "electronic"),
        ("microwave", "appliance"), ("refrigerator", "appliance"), ("book", "indoor"),
        ("toothbrush", "indoor"),
    ],
)  # fmt: skip
def test_a_class_is_in_its_group(name, group):
    groups = supercategories(COCO_NAMES)
    assert groups.names[groups.of(COCO_NAMES.index(name))] == group


def test_classes_are_known_by_name_and_no_class_has_no_group():
    groups = supercategories(("dog", "starfish"))
    assert groups.names[groups.of(0)] == "animal"
    assert groups.of(1) == groups.of(-1) == groups.of(5) == -1
    assert supercategories(("x", "y")).groups == (-1, -1)


def test_a_file_gives_any_groups_by_name_or_number(tmp_path):
    (tmp_path / "groups.yaml").write_text("round: [disc]\nangular: [square, 2]\n")
    groups = supercategories(("square", "disc", "triangle", "blob"), tmp_path / "groups.yaml")
    assert groups.names == ("round", "angular")
    assert groups.groups == (1, 0, 1, -1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [blob]", "'blob' is no class"),
        ("a: [9]", "9 is no class"),
        ("a: [disc]\nb: [disc]", "class 'disc' stands in two groups"),
        ("a: disc", "expected group to list of classes"),
        ("- disc", "expected group to list of classes, got list"),
        ("a: [", "not a readable YAML"),
    ],
)
def test_wrong_groups_are_refused(tmp_path, text, said):
    (tmp_path / "groups.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        supercategories(("disc",), tmp_path / "groups.yaml")


def test_class_numbers_follow_names_and_equal_lists_without_names_their_order():
    assert match_names(("Dog", "cat"), ("cat", "bird", "dog")) == {0: 2, 1: 0}
    assert match_names(("0", "1"), ("cat", "dog")) == {0: 0, 1: 1}
    assert match_names(("cat", "cow"), ("cat", "dog")) is None
    assert match_names(("a", "b", "c"), ("cat", "dog")) is None
