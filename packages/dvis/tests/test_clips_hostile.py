"""Annotations that would end in a traceback, a crash or a silent loss end in one DataError."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError
from mlkit_dvis.clips.formats.reading import read_source
from mlkit_dvis.clips.masks import decode, to_rle

SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
IMAGE = {"id": 11, "video_id": 1, "width": 6, "height": 4, "file_name": "a/0.png"}
CATEGORIES = [{"id": 1, "name": "fish"}]
YTVIS = {
    "videos": [{"id": 1, "width": 6, "height": 4, "file_names": ["a/0.png"]}],
    "categories": CATEGORIES,
    "annotations": [{"id": 7, "video_id": 1, "category_id": 1, "segmentations": [SQUARE]}],
}
ROW = {"id": 5, "image_id": 11, "category_id": 1, "track_id": 3, "segmentation": SQUARE}
COCO = {"images": [IMAGE], "categories": CATEGORIES, "annotations": [ROW]}
CVAT = """<annotations><meta><task><size>2</size>{step}
<labels><label><name>fish</name></label></labels></task></meta>
<track id="0" label="fish">{shape}</track></annotations>"""


@pytest.fixture
def folder(tmp_path):
    for name in ("a/0.png", "a/1.png"):
        path = tmp_path / "frames" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(path)
    return tmp_path


def told(folder, source, **options):
    """Return what is wrong, without the folder's own path."""
    with pytest.raises(DataError) as caught:
        read_source(source, **options)
    return str(caught.value).replace(f"{folder}/", "")


def saved(folder, content):
    (folder / "ann.json").write_text(json.dumps(content))
    return folder / "ann.json"


def with_row(content, **values):
    return {**content, "annotations": [{**content["annotations"][0], **values}]}


FAR = [[0, 0, 1e12, 0, 1e12, 1e12]]
JSON = {
    "video id that is a list": (
        with_row(YTVIS, video_id=[1]),
        "ann.json: annotations[0]: video_id: expected a whole number, got [1]",
    ),
    "video id that is an object": (
        with_row(YTVIS, video_id={}),
        "ann.json: annotations[0]: video_id: expected a whole number, got {}",
    ),
    "category that is a list": (
        with_row(YTVIS, category_id=[1]),
        "ann.json: annotation 7: names category [1], which does not exist",
    ),
    "polygon that ends far away": (
        with_row(YTVIS, segmentations=[FAR]),
        "ann.json: annotation 7, frame 0: polygon 0: 1000000000000.0 lies more than 100000 pixels "
        "away",
    ),
    "image id that is a list": (
        with_row(COCO, image_id=[11]),
        "ann.json: annotations[0]: image_id: expected a whole number, got [11]",
    ),
    "instance that is text": (
        with_row(COCO, track_id="3"),
        "ann.json: annotation 5: it has no whole number `instance_id` or `track_id`: frames "
        "cannot be joined",
    ),
    "box only": (
        with_row(COCO, segmentation=None, bbox=[1, 1, 2, 2]),
        "ann.json: annotation 5: it has a box and no mask: masks are needed",
    ),
}


@pytest.mark.parametrize("name", JSON)
def test_json_of_wrong_types_is_told_by_its_row(folder, name):
    content, message = JSON[name]
    assert told(folder, saved(folder, content)) == message


def test_a_listed_video_of_a_strange_id_is_passed_over(folder):
    clips = read_source(saved(folder, {**COCO, "videos": [{"id": [1]}, {"id": 1, "name": "reef"}]}))
    assert [video.name for video in clips.videos] == ["reef"]


SHAPE = '<polygon frame="0" outside="0" points="{}"/>'
MASK = '<mask frame="0" outside="0" rle="0,1" left="{}" top="0" width="1" height="1"/>'
XML = {
    "no step": (
        CVAT.format(step="<frame_filter>step=0</frame_filter>", shape=SHAPE),
        "annotations.xml: meta: expected a size and a step above 0, got 2 and 0",
    ),
    "mask at no place": (
        CVAT.format(step="", shape=MASK.format("nan")),
        "annotations.xml: track 0: frame 0: <mask>: left: expected a number, got 'nan'",
    ),
    "mask at infinity": (
        CVAT.format(step="", shape=MASK.format("inf")),
        "annotations.xml: track 0: frame 0: <mask>: left: expected a number, got 'inf'",
    ),
    "point at no place": (
        CVAT.format(step="", shape=SHAPE.format("1,1;3,nan;3,3")),
        "annotations.xml: track 0: frame 0: <polygon>: polygon 0: expected numbers, got nan",
    ),
}


@pytest.mark.parametrize("name", XML)
def test_xml_of_wrong_numbers_is_told_by_its_track(folder, name):
    content, message = XML[name]
    (folder / "annotations.xml").write_text(content)
    assert told(folder, folder / "annotations.xml", frames=folder / "frames" / "a") == message


def test_a_turned_cvat_box_is_filled_as_it_is_turned(folder):
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="5" ybr="3" rotation="90"/>'
    (folder / "annotations.xml").write_text(CVAT.format(step="", shape=box))
    options = {"frames": folder / "frames" / "a", "boxes": True}
    (video,) = read_source(folder / "annotations.xml", **options).videos
    # 4 x 2 pixels about (3, 2), a quarter turned: columns 2 and 3, all four rows.
    expected = np.zeros((4, 6), np.uint8)
    expected[:, 2:4] = 1
    assert np.array_equal(video.masks([0])[0, 0], expected)


def test_masks_of_a_video_without_frames_are_not_left_out_silently(folder):
    for name in ("a", "b"):
        (folder / "masks" / name).mkdir(parents=True)
        for t in range(2):
            Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(folder / f"masks/{name}/{t}.png")
    message = f"{folder}: video b: its masks have no frames frames/b"
    assert told(folder, folder) == message


def test_one_problem_of_the_only_video_is_told_alone(folder):
    (folder / "masks" / "a").mkdir(parents=True)
    assert told(folder, folder) == f"{folder}: video a: frame 0 has no mask masks/a/0.png"


def test_a_polygon_that_leaves_the_frame_is_cut_at_its_edge():
    assert decode(to_rle([[-50, 1, 99_000, 1, 99_000, 3, -50, 3]], (4, 6))).tolist() == [
        [0] * 6,
        [1] * 6,
        [1] * 6,
        [0] * 6,
    ]
