"""COCO labels: every object of every image, found by name, and equal to the YOLO files'."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from mlkit_cluster.images.annotations import rasterise
from mlkit_cluster.images.coco_labels import CocoLabels, decompress_runs
from mlkit_cluster.images.letterbox import fit
from mlkit_cluster.images.listing import list_images
from mlkit_cluster.images.yolo_labels import YoloLabels
from mlkit_core.errors import DataError

SIZE = (40, 60)


def entry(image, **fields):
    values = {"id": image, "image_id": image, "category_id": 7, "bbox": [10, 5, 20, 10]}
    return values | fields


@pytest.fixture
def coco(tmp_path):
    """Return a function that writes a JSON for two images and opens it."""

    def open_labels(annotations, names=("a.png", "b.png"), **changes):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.png", "b.png", "c.png"):
            Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / name)
        value = {
            "images": [
                {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
                for i, name in enumerate(names)
            ],
            "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
            "annotations": annotations,
        }
        (tmp_path / "all.json").write_text(json.dumps(value | changes))
        listing = list_images(tmp_path / "images")
        labels = CocoLabels(tmp_path / "all.json", listing)
        return labels, [labels.of(one, SIZE) for one in listing.images]

    return open_labels


def test_all_objects_of_an_image_are_read_and_crowds_are_not(coco):
    annotations = [entry(0), entry(0, category_id=3, bbox=[0, 0, 5, 5]), entry(0, iscrowd=1)]
    labels, (first, second, third) = coco(annotations)
    assert labels.names == ("early", "late")
    assert first.boxes.tolist() == [[10, 5, 30, 15], [0, 0, 5, 5]]
    assert first.labels.tolist() == [1, 0]
    assert len(second.labels) == 0  # listed without objects
    assert third is None  # not listed
    assert labels.labelled == 2


def test_images_are_found_by_file_name_whatever_their_folder(coco):
    _, (first, *_) = coco([entry(0)], names=("elsewhere/train/a.png", "b.png"))
    assert len(first.labels) == 1


def test_of_two_images_of_one_name_the_path_decides(coco):
    _, (first, *_) = coco([entry(0), entry(1), entry(1)], names=("x/a.png", "images/a.png"))
    assert len(first.labels) == 2


def test_polygons_and_both_run_lengths_give_one_mask(coco):
    drawn = np.zeros(SIZE, np.uint8, order="F")
    drawn[10:30, 20:40] = 1
    packed = rle.encode(drawn)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, drawn.ravel("F"), 2])))
    shapes = [
        [[20, 10, 40, 10, 40, 30, 20, 30]],
        {"size": list(SIZE), "counts": packed["counts"].decode()},
        {"size": list(SIZE), "counts": runs.tolist()},
    ]
    _, (found, *_) = coco([entry(0, segmentation=shape) for shape in shapes])
    masks = [rasterise(outline, fit(SIZE, 120), SIZE, 120) for outline in found.outlines]
    # Scale 2, 20 rows above: x 40..80, y 40..80, in cells 10..20 both.
    expected = np.zeros((30, 30), bool)
    expected[10:20, 10:20] = True
    assert all((mask == expected).all() for mask in masks)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bbox": [1, 2, 3]}, "annotation 0: no legal bbox"),
        ({"category_id": 99}, "annotation 0: no legal bbox and category_id: KeyError"),
        ({"bbox": [0, 0, float("nan"), 1]}, "annotation 0: bbox: expected numbers"),
        ({"segmentation": {"size": [40, 60]}}, "annotation 0: segmentation is neither"),
        ({"segmentation": {"size": [40, 60], "counts": [10**13]}}, "segmentation is neither"),
        ({"segmentation": {"size": [40, 60], "counts": "~~"}}, "segmentation is neither"),
        ({"segmentation": [[1, 2, 3]]}, "annotation 0: segmentation is neither"),
        ({"segmentation": {"size": [4, 6], "counts": [24]}}, "segmentation is of"),
    ],
)
def test_a_wrong_annotation_is_named(coco, wrong, said):
    with pytest.raises(DataError, match=said):
        coco([entry(0, **wrong)])


def test_an_image_of_another_size_is_an_error_that_names_it(coco):
    labels, _ = coco([entry(0)])
    image = list_images(labels._file.parent / "images").images[0]
    with pytest.raises(DataError, match=r"a\.png: .* says 60 x 40 pixels, got 10 x 40"):
        labels.of(image, (40, 10))


def test_a_file_that_lists_none_of_the_images_is_refused(coco):
    with pytest.raises(DataError, match="lists none of the 3 images"):
        coco([], names=("x.png", "y.png"))


@pytest.mark.parametrize("wrong", [{"images": 3}, {"categories": [{"id": 1}]}, {"info": 1}])
def test_what_is_no_coco_file_is_refused(coco, wrong):
    with pytest.raises(DataError, match=r"all\.json: "):
        coco([1], **wrong)


def test_compressed_runs_are_those_of_the_coco_api():
    rng = np.random.default_rng(0)
    for density in (0.01, 0.5, 0.99):
        drawn = np.asfortranarray(rng.random((97, 211)) < density, np.uint8)
        runs = decompress_runs(rle.encode(drawn)["counts"].decode())
        assert (np.repeat(np.arange(len(runs)) % 2, runs) == drawn.ravel("F")).all()


def test_real_json_and_real_text_files_tell_of_the_same_objects(shared_data):
    listing = list_images(shared_data / "coco/coco.yaml")
    yolo = YoloLabels(listing)
    coco = CocoLabels(shared_data / "coco/annotations/instances_train2017_100.json", listing)
    assert coco.labelled == 100
    for one in listing.images:
        with Image.open(one.path) as image:
            size = image.size[::-1]
        # COCO's own text files: a subset of the JSON's, whose boxes come from panoptic masks.
        text, full = yolo.of(one, size), coco.of(one, size)
        named = [coco.names[label] for label in full.labels]
        assert {listing.names[label] for label in text.labels} <= set(named)
