"""The data component: keys, letterboxes, labels by name, and what nothing is known of."""

import numpy as np
import pytest
import torch

from mlkit_cluster.images.component import ImageFolder
from mlkit_cluster.images.pixels import content_hash, read_input
from mlkit_cluster.images.target import InstanceTarget, truths_of
from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import BoxTarget, Draw, MaskTarget, Needs


def batch_of(data, *indices):
    return data.collate([[data.load(Draw(index, 0))] for index in indices])[0]


def test_an_image_carries_its_key_its_hash_and_its_letterbox(painted_images):
    data = ImageFolder(painted_images / "images", image_size=64)
    batch = batch_of(data, 3)  # 200 x 120
    meta = batch.meta[0]
    path = painted_images / "images/03.png"
    assert (meta.key, meta.size, meta.letterbox.scale) == ("03.png", (120, 200), 0.32)
    assert (meta.letterbox.size, meta.letterbox.offset) == ((38, 64), (13, 0))
    assert meta.extra == {"sha": content_hash(path), "split": ""}
    assert torch.equal(batch.inputs["image"][0], read_input(path, 64) / 255)


def test_labels_become_boxes_in_input_pixels_padded_with_minus_one(painted_images):
    data = ImageFolder(painted_images / "data.yaml", image_size=64)
    batch = batch_of(data, 0, 1, 2)  # 0, 1 and 2 objects
    assert isinstance(batch.target, InstanceTarget)
    assert (batch.target.labels >= 0).sum(1).tolist() == [0, 1, 2]
    line = (painted_images / "labels/01.txt").read_text().split()
    x, y, width, height = (float(word) for word in line[1:])
    # 64 x 96 into 64: content 43 x 64, 10 to the left.
    middle, half = (x * 43 + 10, y * 64), (width * 43 / 2, height * 64 / 2)
    expected = [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
    np.testing.assert_allclose(batch.target.boxes_xyxy[1, 0], expected, atol=1e-4)
    assert batch.target.truths[0] is not None  # known to be empty


def test_without_labels_nothing_is_known(painted_images):
    bare = ImageFolder(painted_images / "images", labels="none", image_size=64)
    batch = batch_of(bare, 0, 1)
    assert batch.target is None
    assert truths_of(batch.target, batch.meta) == (None, None)


def test_polygons_give_masks_within_their_boxes(painted_images):
    data = ImageFolder(painted_images / "images", label_folder="labels_seg", image_size=128)
    truth = data.load(Draw(3, 0)).truth
    assert len(truth.masks) == 3
    boxes = ImageFolder(painted_images / "images", image_size=128).load(Draw(3, 0)).truth
    np.testing.assert_allclose(truth.boxes_input, boxes.boxes_input, atol=1e-3)
    assert boxes.masks is None


def test_labels_are_matched_to_wanted_classes_by_name(painted_images):
    wanted = ("Triangle", "blob", "square", "disc")
    plain = ImageFolder(painted_images / "data.yaml", image_size=64)
    renumbered = ImageFolder(painted_images / "data.yaml", classes=wanted, image_size=64)
    own, theirs = (data.load(Draw(3, 0)).truth.labels for data in (plain, renumbered))
    assert theirs.tolist() == [{0: 2, 1: 3, 2: 0}[int(label)] for label in own]
    assert renumbered.classes == wanted
    assert plain.classes == ("square", "disc", "triangle")


def test_classes_that_are_not_wanted_are_named(painted_images):
    data = ImageFolder(painted_images / "data.yaml", classes=("square", "disc"), image_size=64)
    with pytest.raises(DataError, match="none of the 2 wanted: triangle"):
        data.load(Draw(0, 0))


def test_labels_that_were_asked_for_and_are_not_there_are_an_error(painted_images):
    data = ImageFolder(painted_images / "images", labels="yolo", label_folder="x", image_size=64)
    with pytest.raises(DataError, match=r"no label file of 12 images, for example .*x/00\.txt"):
        data.load(Draw(0, 0))
    assert ImageFolder(painted_images / "images", label_folder="x").label_source() is None
    with pytest.raises(BuildError, match="coco needs `annotations`"):
        ImageFolder(painted_images / "images", labels="coco")


def test_training_is_shuffled_by_the_seed_and_other_splits_are_in_order(painted_images):
    data = ImageFolder(painted_images / "images", image_size=64)
    orders = [[unit[0].index for unit in data.units("train", seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert [unit[0].index for unit in data.units("cache", 5)] == list(range(12))
    assert data.units("val", 0) == []


def test_a_bound_model_gets_its_padding_and_must_take_the_size(painted_images):
    data = ImageFolder(painted_images / "images", image_size=64)
    with pytest.raises(BuildError, match=r"data\.image_size: the encoders accept .* got 64"):
        data.bind({"image": Needs(sizes=(224,))})
    data.bind({"image": Needs(pad_rgb=(0.5, 0.25, 0.75))})
    image = data.load(Draw(0, 0)).inputs["image"]  # 96 x 64: 11 rows above
    assert image[:, 0, 0].tolist() == [0.5, 0.25, 0.75]
    plain = read_input(painted_images / "images/00.png", 64) / 255
    assert torch.equal(image[:, 11:53], plain[:, 11:53])


def test_a_corrupt_image_is_an_error_of_its_own(painted_images):
    (painted_images / "images/02.png").write_bytes(b"nothing")
    data = ImageFolder(painted_images / "images", image_size=64)
    with pytest.raises(DataError, match=r"02\.png: not a readable image"):
        data.load(Draw(2, 0))
    assert data.load(Draw(3, 0)).meta.key == "03.png"


def test_a_users_own_files_open_without_target(painted_images):
    data = ImageFolder(painted_images / "images", image_size=64)
    batches = list(data.open({"image": painted_images / "images/05.png"}))
    assert [batch.meta[0].key for batch in batches] == ["05.png"]
    assert batches[0].target is None


def test_plain_boxes_are_truths_too_and_other_targets_are_refused(painted_images):
    data = ImageFolder(painted_images / "data.yaml", image_size=64)
    batch = batch_of(data, 1, 3)
    plain = BoxTarget(batch.target.boxes_xyxy, batch.target.labels)
    found = truths_of(plain, batch.meta)
    for ours, theirs in zip(found, batch.target.truths, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-4)
        assert ours.labels.tolist() == theirs.labels.tolist()
    with pytest.raises(DataError, match="expected boxes, got MaskTarget"):
        truths_of(MaskTarget(torch.zeros(2, 4, 4)), batch.meta)
