"""Images of folders, lists and data sets: in order, each once, under stable keys."""

import pytest
from PIL import Image

from mlkit_cluster.images.listing import list_images
from mlkit_core.errors import DataError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def keys(source):
    return [one.key for one in list_images(source).images]


def test_a_folder_is_listed_with_its_sub_folders_in_order(tmp_path):
    touch(tmp_path / "b.png", tmp_path / "a/z.JPG", tmp_path / "a/.hidden/x.png")
    (tmp_path / "notes.txt").write_text("")
    assert keys(tmp_path) == ["a/z.JPG", "b.png"]


def test_a_list_starts_at_its_own_folder_and_names_each_image_once(tmp_path, caplog):
    touch(tmp_path / "x/2.png", tmp_path / "x/1.png")
    (tmp_path / "some.txt").write_text("./x/2.png\n\nx/1.png\nx/../x/2.png\n")
    assert keys(tmp_path / "some.txt") == ["x/1.png", "x/2.png"]
    assert "1 images are named more than once" in caplog.text


def test_a_data_set_has_splits_and_names_and_the_first_split_wins(tmp_path):
    touch(tmp_path / "d/images/1.png", tmp_path / "d/images/2.png")
    (tmp_path / "d/val.txt").write_text("images/1.png\nimages/2.png\n")
    (tmp_path / "d/train.txt").write_text("images/1.png\n")
    (tmp_path / "set.yaml").write_text(
        "path: d\ntrain: train.txt\nval: [val.txt]\nnames: {0: cat, 1: dog}\n"
    )
    listing = list_images(tmp_path / "set.yaml")
    found = [(one.key, one.split) for one in listing.images]
    assert found == [("images/1.png", "train"), ("images/2.png", "val")]
    assert listing.names == ("cat", "dog")
    assert listing.root == tmp_path / "d"


def test_an_image_outside_the_root_keeps_its_whole_path(tmp_path):
    touch(tmp_path / "out.png", tmp_path / "d/in.png")
    (tmp_path / "d/list.txt").write_text(f"in.png\n{tmp_path / 'out.png'}\n")
    assert keys(tmp_path / "d/list.txt") == [str(tmp_path / "out.png"), "in.png"]


def test_a_single_image_is_a_source(tmp_path):
    touch(tmp_path / "one.png")
    assert keys(tmp_path / "one.png") == ["one.png"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone", None, "no such image"),
        ("list.txt", "a.png\nreadme.md\n", "list.txt:2: expected an image, got 'readme.md'"),
        ("list.txt", "\n", "holds no image"),
        ("set.yaml", "names: [a]\n", "at least one of train, val, test"),
        ("set.yaml", "train: [\n", "not a readable YAML"),
        ("set.yaml", "train: nowhere\n", "train: no such folder or list"),
        ("set.yaml", "train: .\nnames: {1: a}\n", "names: expected a list, or 0, 1"),
        ("data.csv", "x", "expected an image, a folder"),
    ],
)
def test_a_wrong_source_is_told_where_it_is_wrong(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        list_images(tmp_path / name)


def test_the_real_list_has_70_and_30_images(shared_data):
    listing = list_images(shared_data / "coco/coco.yaml")
    splits = [one.split for one in listing.images]
    assert (splits.count("train"), splits.count("val")) == (70, 30)
    assert listing.names[:2] == ("person", "bicycle")
    assert len(listing.names) == 80
