"""Broken JSON: each problem is named with its file and row, all of a set at once."""

import json

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError
from mlkit_dvis.clips.formats.coco_images import read_coco_images
from mlkit_dvis.clips.formats.reading import read_source
from mlkit_dvis.clips.formats.ytvis import read_ytvis
from mlkit_dvis.clips.masks import encode, to_rle

SIZE = (4, 6)
RUNS = {"size": [4, 6], "counts": [5, 2, 17]}
TEXT = encode(np.pad(np.ones((2, 1), bool), ((1, 1), (1, 4))))


def frames(root, count, size=SIZE):
    root.mkdir(parents=True, exist_ok=True)
    for t in range(count):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / f"{t}.png")


def ytvis():
    names = ["a/0.png", "a/1.png"]
    return {
        "categories": [{"id": 1, "name": "fish"}],
        "videos": [{"id": 1, "width": 6, "height": 4, "length": 2, "file_names": names}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": [RUNS, None]}],
    }


def video(**values):
    return lambda content: content["videos"][0].update(values)


def annotation(**values):
    return lambda content: content["annotations"][0].update(values)


def masks(*segmentations):
    return annotation(segmentations=list(segmentations))


def put(key, value):
    return lambda content: content.update({key: value})


def drop(key, row):
    return lambda content: content[key][0].pop(row)


def again(key):
    return lambda content: content[key].append(dict(content[key][0]))


YTVIS = {
    "no videos": (put("videos", []), "videos: the list is empty"),
    "not the layout": (put("videos", None), r"not a YouTube-VIS JSON: it has no list 'videos'"),
    "public val set": (put("annotations", None), "it has no annotations"),
    "row that is no object": (put("videos", [3]), r"videos\[0\]: expected an object, got 3"),
    "video without size": (
        drop("videos", "width"),
        r"videos\[0\]: width: expected a whole number, got None",
    ),
    "video twice": (again("videos"), r"videos\[1\]: id 1 comes twice"),
    "annotation twice": (again("annotations"), r"annotations\[1\]: id 1 comes twice"),
    "no frames": (video(file_names=[]), "video 1: it has no frames"),
    "missing frame": (
        video(file_names=["a/0.png", "a/7.png"]),
        r"video 1: no file .*frames/a/7\.png",
    ),
    "missing frames": (
        video(file_names=["b/0.png", "b/7.png"]),
        r"video 1: no file .*b/0\.png and 1 more of its frames",
    ),
    "frame outside": (
        video(file_names=["a/0.png", "../secret.png"]),
        r"video 1: '\.\./secret\.png' leaves the folder .*frames",
    ),
    "absolute frame": (
        video(file_names=["/etc/0.png", "a/1.png"]),
        r"video 1: '/etc/0\.png' leaves the folder",
    ),
    "other length": (video(length=5), "video 1: its length is 5, but it names 2 files"),
    "unknown video": (annotation(video_id=4), "annotation 1: names video 4, which does not exist"),
    "unknown category": (
        annotation(category_id=9),
        "annotation 1: names category 9, which does not exist",
    ),
    "nameless category": (put("categories", [{"id": 1}]), "categories: name '' comes 1 times"),
    "masks of another length": (masks(RUNS), "annotation 1: it has 1 segmentations, its video 2"),
    "boxes only": (
        drop("annotations", "segmentations"),
        "annotation 1: it has no list `segmentations`: masks are needed, boxes are not enough",
    ),
    "mask of another size": (
        masks(None, {"size": [6, 4], "counts": [24]}),
        r"annotation 1, frame 1: run lengths are of size \[6, 4\], the video is 4 x 6",
    ),
    "runs too short": (
        masks({"size": [4, 6], "counts": [5, 2]}, None),
        "annotation 1, frame 0: run lengths cover 7 pixels, a frame has 24",
    ),
    "negative runs": (
        masks({"size": [4, 6], "counts": [-5, 29]}, None),
        "annotation 1, frame 0: counts: expected whole numbers from 0 on",
    ),
    "text cut short": (
        masks({"size": [4, 6], "counts": TEXT["counts"][:-1]}, None),
        "annotation 1, frame 0: counts: the text is cut short or no run lengths",
    ),
    "text that is none": (
        masks({"size": [4, 6], "counts": "é!"}, None),
        "annotation 1, frame 0: counts: the text is cut short or no run lengths",
    ),
    "polygon of two points": (
        masks([[1, 1, 2, 2]], None),
        "annotation 1, frame 0: polygon 0: expected x, y of at least 3 points",
    ),
    "polygon without numbers": (
        masks([[1, 1, 2, 2, 3, None]], None),
        "annotation 1, frame 0: polygon 0: expected numbers, got None",
    ),
    "mask that is none": (masks("x", None), "frame 0: expected polygons or run lengths, got 'x'"),
}


@pytest.mark.parametrize("name", YTVIS)
def test_a_broken_youtube_vis_file_is_refused_with_its_row(tmp_path, name):
    change, message = YTVIS[name]
    content = ytvis()
    change(content)
    frames(tmp_path / "frames" / "a", 2)
    path = tmp_path / "videos.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        read_ytvis(path, tmp_path / "frames", whole=True)
    assert str(caught.value).startswith(str(path))


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    content = ytvis()
    video(file_names=["a/0.png", "a/9.png"])(content)
    again("annotations")(content)
    content["annotations"][1] |= {"id": 2, "category_id": 5}
    content["annotations"] += [{"id": 3, "video_id": 8}]
    frames(tmp_path / "frames" / "a", 1)
    path = tmp_path / "videos.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_ytvis(path, tmp_path / "frames")
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}: ").partition(":")[0] for line in lines] == [
        "annotation 2",
        "annotation 3",
        "video 1",
    ]


def test_of_many_problems_twenty_are_told_and_the_others_counted(tmp_path):
    content = ytvis()
    content["annotations"] = [{"id": n, "video_id": 4} for n in range(27)]
    frames(tmp_path / "frames" / "a", 2)
    path = tmp_path / "videos.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_ytvis(path, tmp_path / "frames")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (21, "and 7 more problems")


def test_a_category_that_is_none_of_the_classes_is_told_once(tmp_path):
    content = ytvis()
    again("annotations")(content)
    content["annotations"][1]["id"] = 2
    frames(tmp_path / "frames" / "a", 2)
    path = tmp_path / "videos.json"
    path.write_text(json.dumps(content))
    message = "category 1 'fish': 2 annotations have it, and it is none of the classes"
    with pytest.raises(DataError, match=message):
        read_ytvis(path, tmp_path / "frames", ("crab",))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a readable JSON file"), ("[1]", "expected an object, got list")],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_ytvis(tmp_path / "a.json", tmp_path)


def test_run_lengths_that_would_be_read_beyond_their_end_are_refused():
    with pytest.raises(DataError, match="cover 22 pixels, a frame has 24"):
        to_rle({"size": [4, 6], "counts": "52?"}, SIZE)


def coco_video():
    image = {"video_id": 1, "width": 6, "height": 4}
    row = {"category_id": 1, "instance_id": 1}
    return {
        "categories": [{"id": 1, "name": "fish"}],
        "images": [
            {**image, "id": 1, "frame_id": 0, "file_name": "a/0.png"},
            {**image, "id": 2, "frame_id": 1, "file_name": "a/1.png"},
        ],
        "annotations": [{**row, "id": 1, "image_id": 1, "segmentation": RUNS}],
    }


def image(**values):
    return lambda content: content["images"][1].update(values)


COCO = {
    "no images": (put("images", []), "images: the list is empty"),
    "box only": (
        annotation(segmentation=[], bbox=[1, 1, 2, 2]),
        "annotation 1: it has a box and no mask: masks are needed",
    ),
    "no track": (
        drop("annotations", "instance_id"),
        "annotation 1: it has no whole number `instance_id` or `track_id`",
    ),
    "unknown image": (annotation(image_id=7), "annotation 1: names image 7, which does not exist"),
    "frame twice": (image(frame_id=0), "video 1: a frame_id comes twice"),
    "frame that is no number": (image(frame_id="x"), "video 1: frame_id: expected whole numbers"),
    "two sizes": (image(width=8), r"video 1: its images are of 2 sizes: \[\(4, 6\), \(4, 8\)\]"),
    "no video": (
        drop("images", "video_id"),
        r"images\[0\]: video_id: expected a whole number, got None",
    ),
    "mask of another size": (
        annotation(segmentation={"size": [1, 1], "counts": [1]}),
        r"annotation 1: run lengths are of size \[1, 1\]",
    ),
    "instance twice": (
        lambda content: content["annotations"].append({**content["annotations"][0], "id": 2}),
        "annotation 2: image 1 has this instance already",
    ),
    "other category later": (
        lambda content: (
            content["categories"].append({"id": 2, "name": "crab"}),
            content["annotations"].append(
                {**content["annotations"][0], "id": 2, "image_id": 2, "category_id": 2}
            ),
        ),
        "annotation 2: its instance has another category in an earlier image",
    ),
}


@pytest.mark.parametrize("name", COCO)
def test_a_broken_coco_video_file_is_refused_with_its_row(tmp_path, name):
    change, message = COCO[name]
    content = coco_video()
    change(content)
    frames(tmp_path / "frames" / "a", 2)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_source(path, "coco-vid")


def test_images_without_a_video_are_told_what_they_are_good_for(tmp_path):
    content = coco_video()
    for row in content["images"]:
        del row["video_id"]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="COCO JSON whose images have no `video_id`") as caught:
        read_source(path)
    assert "data.pseudo_annotations" in caught.value.hint


def test_images_of_which_none_shows_a_known_class_are_refused(tmp_path):
    frames(tmp_path / "a", 2)
    (tmp_path / "coco.json").write_text(json.dumps(coco_video()))
    with pytest.raises(DataError, match="annotations: no instance is of a known class: crab"):
        read_coco_images(tmp_path / "coco.json", tmp_path, ("crab",))
