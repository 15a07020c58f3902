"""Importers on published annotations: DAVIS frames and masks, and a YouTube-VIS row of others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError
from mlkit_core.types import Needs
from mlkit_dvis.clips.component import VideoClips
from mlkit_dvis.clips.formats.reading import read_source
from mlkit_dvis.clips.formats.ytvis import write_ytvis


@pytest.fixture(scope="module")
def davis(shared_data, tmp_path_factory):
    """Return the folder, its own YouTube-VIS JSON, and the file that the import of masks gives."""
    folder = shared_data("clips")
    out = tmp_path_factory.mktemp("davis") / "out.json"
    write_ytvis(read_source(folder, "davis"), out)
    return folder, json.loads((folder / "ytvis.json").read_text()), json.loads(out.read_text())


def test_masks_of_a_davis_folder_equal_those_of_its_own_json(davis):
    _, published, imported = davis
    rows = {row["video_id"]: row for row in imported["annotations"]}
    videos = {video["file_names"][0]: video for video in imported["videos"]}
    assert len(rows) == len(published["annotations"]) == 7
    for video, row in zip(published["videos"], published["annotations"], strict=True):
        mine = videos[video["file_names"][0]]
        assert mine["file_names"] == video["file_names"]
        assert [mine[key] for key in ("width", "height", "length")] == [
            video[key] for key in ("width", "height", "length")
        ]
        assert rows[mine["id"]]["segmentations"] == row["segmentations"]
        assert rows[mine["id"]]["areas"] == row["areas"]
        assert rows[mine["id"]]["bboxes"] == row["bboxes"]


def test_a_davis_folder_without_names_has_one_class(davis):
    _, _, imported = davis
    assert imported["categories"] == [{"id": 1, "name": "object"}]
    assert {row["iscrowd"] for row in imported["annotations"]} == {0}


def test_a_published_json_is_read_as_the_folder_is(davis):
    folder, published, imported = davis
    clips = read_source(folder / "ytvis.json")
    assert clips.classes == tuple(c["name"] for c in published["categories"])
    masks = {row["video_id"]: row["segmentations"] for row in imported["annotations"]}
    number = {video["file_names"][0]: video["id"] for video in imported["videos"]}
    for video in clips.videos:
        rles = masks[number[video.frames[0].relative_to(clips.root).as_posix()]]
        assert list(video.target().tracks[0].rles) == rles


def test_a_mask_of_a_published_folder_is_drawn_where_its_image_has_it(davis):
    folder, _, _ = davis
    video = next(v for v in read_source(folder / "ytvis.json").videos if v.name == "blackswan")
    with Image.open(folder / "masks" / "blackswan" / "00007.png") as image:
        assert np.array_equal(video.masks([7])[0, 0], np.asarray(image) == 255)


@pytest.fixture
def demo(shared_data):
    return shared_data("metrics/video/mmtracking_ytvis_demo") / "ann.json"


def test_frames_that_are_not_there_are_told(demo, tmp_path):
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError, match=r"video 1: no file .*frames/0043f083b5/00000\.jpg"):
        read_source(demo, frames=tmp_path / "frames")


def test_rows_of_images_that_belong_to_videos_are_read(demo, tmp_path):
    (tmp_path / "0043f083b5").mkdir()
    Image.new("RGB", (1280, 720)).save(tmp_path / "0043f083b5" / "00000.jpg")
    clips = read_source(demo, frames=tmp_path)
    (row,) = json.loads(demo.read_text())["annotations"]
    (video,) = clips.videos
    assert (clips.classes, video.name, video.size) == (("sedan",), "0043f083b5", (720, 1280))
    mask = video.masks([0])[0, 0]
    assert mask.sum() == sum(row["segmentation"]["counts"][1::2])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, width, height = row["bbox"]  # of the same fixture, to the pixel
    assert abs(columns[0] - left) <= 1
    assert abs(rows[0] - top) <= 1
    assert abs(columns[-1] + 1 - left - width) <= 1
    assert abs(rows[-1] + 1 - top - height) <= 1


def test_clips_of_composites_hold_all_instances_under_their_frames(shared_data):
    folder = shared_data("clips_composite")
    data = VideoClips(annotations=folder / "ytvis.json", val_videos=("traffic",))
    data.bind({"frames": Needs(size_multiple=32)})
    assert data.classes[:4] == ("bird", "cyclist_with_bike", "dog", "car")
    ((draw,),) = data.units("train", 0)
    (batch,) = data.collate([[data.load(draw)]])
    assert batch.meta[0].key == "dogs_cross"
    assert batch.target.masks.shape[2:] == (5, *batch.inputs["frames"].shape[-2:])
    assert set(batch.target.labels[0].tolist()) <= {0, 2}  # a swan and two dogs
    (windows,) = data.units("val", 0)
    assert sum(len(window.frames) for window in windows) == 43
    tracks = data.load(windows[0]).target.tracks
    assert len(tracks) == 4
    assert all(len(track.rles) == 43 for track in tracks)


def test_coco_images_of_known_classes_become_clips(shared_data):
    coco, clips = shared_data("coco"), shared_data("clips")
    data = VideoClips(
        annotations=clips / "ytvis.json",
        pseudo_annotations=coco / "annotations" / "instances_train2017_100.json",
        pseudo_images=coco / "images" / "train2017",
        pseudo_ratio=1.0,
        short_sides=(160,),
    )
    content = json.loads((coco / "annotations" / "instances_train2017_100.json").read_text())
    shared = {c["id"]: c["name"] for c in content["categories"] if c["name"] in data.classes}
    assert {"bird", "dog", "car"} == set(shared.values())
    images = {
        row["image_id"]
        for row in content["annotations"]
        if row["category_id"] in shared and not row["iscrowd"]
    }
    units = data.units("train", 0)
    assert len(units) == len(images)
    sample = data.load(units[0][0])
    assert sample.masks.any()
    assert {data.classes[label] for label in sample.labels} <= set(shared.values())
