"""Annotation files of four formats, made by hand, become the same masks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlkit_dvis.clips import masks
from mlkit_dvis.clips.formats.coco_video import read_coco_video
from mlkit_dvis.clips.formats.cvat import read_cvat
from mlkit_dvis.clips.formats.davis import read_davis
from mlkit_dvis.clips.formats.reading import detect, read_source
from mlkit_dvis.clips.formats.ytvis import read_ytvis, write_ytvis

SIZE = (4, 6)
# Rows 1 and 2, columns 1 to 3. Run lengths count down the columns: 4 + 1 pixels before, then two
# of each column with two between, and 9 after.
RECTANGLE = np.zeros(SIZE, np.uint8)
RECTANGLE[1:3, 1:4] = 1
RUNS = {"size": [4, 6], "counts": [5, 2, 2, 2, 2, 2, 9]}
POLYGON = [[1, 1, 4, 1, 4, 3, 1, 3]]


def frames(root, *names, size=SIZE):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / name)
    return list(names)


def saved(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def shown(video, row=0):
    """Return the masks of an instance, `[T, H, W]`."""
    return video.masks(range(video.length))[:, row]


@pytest.mark.parametrize("form", ["runs", "text", "polygon"])
def test_a_mask_is_the_same_in_every_form(form):
    text = masks.to_rle(RUNS, SIZE)
    segmentation = {"runs": RUNS, "text": text, "polygon": POLYGON}[form]
    assert np.array_equal(masks.decode(masks.to_rle(segmentation, SIZE)), RECTANGLE)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 70), seed=st.integers(0, 99), full=st.booleans()
)
def test_run_lengths_of_pycocotools_are_read_back(height, width, seed, full):
    share = 0.95 if full else 0.3
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = masks.encode(mask)
    if rle is None:
        assert not mask.any()
    else:
        assert np.array_equal(masks.decode(rle), mask)


def test_a_mask_without_a_pixel_is_none():
    assert masks.to_rle({"size": [4, 6], "counts": [24]}, SIZE) is None
    assert masks.to_rle(None, SIZE) is None
    assert masks.to_rle([], SIZE) is None


def ytvis(**changes):
    content = {
        "categories": [{"id": 7, "name": "crab"}, {"id": 3, "name": "fish"}],
        "videos": [
            {
                "id": 5,
                "width": 6,
                "height": 4,
                "length": 3,
                "file_names": ["a/0.png", "a/1.png", "a/2.png"],
            }
        ],
        "annotations": [
            {
                "id": 1,
                "video_id": 5,
                "category_id": 7,
                "iscrowd": 0,
                "segmentations": [None, RUNS, POLYGON],
            },
            {
                "id": 2,
                "video_id": 5,
                "category_id": 3,
                "iscrowd": 1,
                "segmentations": [RUNS, None, None],
            },
        ],
    }
    return content | changes


@pytest.fixture
def ytvis_file(tmp_path):
    frames(tmp_path / "frames", "a/0.png", "a/1.png", "a/2.png")
    return saved(tmp_path / "videos.json", ytvis())


def test_ytvis_labels_count_in_order_of_category_ids(ytvis_file, tmp_path):
    clips = read_ytvis(ytvis_file, tmp_path / "frames")
    (video,) = clips.videos
    assert clips.classes == ("fish", "crab")
    assert [instance.label for instance in video.instances] == [1, 0]
    assert (video.name, video.size, video.length) == ("a", SIZE, 3)


def test_labels_follow_the_classes_that_are_asked_for(ytvis_file, tmp_path):
    clips = read_ytvis(ytvis_file, tmp_path / "frames", ("crab", "eel", "fish"))
    assert clips.classes == ("crab", "eel", "fish")
    assert [instance.label for instance in clips.videos[0].instances] == [0, 2]


def test_null_is_an_instance_that_is_not_visible(ytvis_file, tmp_path):
    (video,) = read_ytvis(ytvis_file, tmp_path / "frames").videos
    empty = np.zeros(SIZE)
    assert np.array_equal(shown(video), [empty, RECTANGLE, RECTANGLE])
    assert video.shows == (False, True, True)


def test_crowds_are_kept_for_metrics_and_left_out_of_training(ytvis_file, tmp_path):
    (video,) = read_ytvis(ytvis_file, tmp_path / "frames").videos
    assert [instance.id for instance in video.learnt] == [1]
    assert [track.is_crowd for track in video.target().tracks] == [False, True]
    assert [rle is None for rle in video.target().tracks[0].rles] == [True, False, False]


def test_videos_whose_frames_share_a_folder_have_names_of_their_own(tmp_path):
    names = frames(tmp_path / "frames", "all/0.png", "all/1.png", "2.png")
    rows = [
        {"id": number, "width": 6, "height": 4, "file_names": [name]}
        for number, name in enumerate(names, start=1)
    ]
    path = saved(tmp_path / "videos.json", ytvis(videos=rows, annotations=[]))
    videos = read_ytvis(path, tmp_path / "frames").videos
    assert [video.name for video in videos] == ["all#1", "all#2", "#3"]


def test_what_is_written_is_read_back(ytvis_file, tmp_path):
    clips = read_ytvis(ytvis_file, tmp_path / "frames")
    write_ytvis(clips, tmp_path / "again.json")
    again = read_ytvis(tmp_path / "again.json", tmp_path / "frames", whole=True)
    assert again.classes == clips.classes
    assert again.videos[0].frames == clips.videos[0].frames
    assert again.videos[0].target().tracks[0].rles == clips.videos[0].target().tracks[0].rles
    row = json.loads((tmp_path / "again.json").read_text())["annotations"][0]
    assert (row["areas"], row["bboxes"]) == ([None, 6, 6], [None, [1, 1, 3, 2], [1, 1, 3, 2]])


def coco_video(**changes):
    image = {"video_id": 9, "width": 6, "height": 4}
    row = {"category_id": 1, "iscrowd": 0, "bbox": [1, 1, 3, 2]}
    content = {
        "categories": [{"id": 1, "name": "car"}],
        "videos": [{"id": 9, "name": "street"}],
        "images": [  # not in order
            {**image, "id": 12, "frame_id": 2, "file_name": "s/c.png"},
            {**image, "id": 10, "frame_id": 0, "file_name": "s/a.png"},
            {**image, "id": 11, "frame_id": 1, "file_name": "s/b.png"},
        ],
        "annotations": [
            {**row, "id": 1, "image_id": 10, "instance_id": 4, "segmentation": RUNS},
            {**row, "id": 2, "image_id": 12, "instance_id": 4, "segmentation": POLYGON},
            {**row, "id": 3, "image_id": 11, "track_id": 8, "segmentation": POLYGON},
        ],
    }
    return content | changes


@pytest.fixture
def coco_file(tmp_path):
    frames(tmp_path / "frames", "s/a.png", "s/b.png", "s/c.png")
    return saved(tmp_path / "coco.json", coco_video())


def test_coco_video_joins_images_by_frame_and_rows_by_instance(coco_file, tmp_path):
    (video,) = read_coco_video(coco_file, tmp_path / "frames").videos
    assert (video.name, video.length) == ("street", 3)
    assert [path.name for path in video.frames] == ["a.png", "b.png", "c.png"]
    assert [instance.id for instance in video.instances] == [4, 8]
    empty = np.zeros(SIZE)
    assert np.array_equal(shown(video, 0), [RECTANGLE, empty, RECTANGLE])
    assert np.array_equal(shown(video, 1), [empty, RECTANGLE, empty])


def indexed(path, ids):
    """Write ids as a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("P", ids.shape[::-1])
    picture.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30])
    picture.putdata(ids.ravel().tolist())
    picture.save(path)


@pytest.fixture
def davis_folder(tmp_path):
    frames(tmp_path / "frames", "dog/00000.jpg", "dog/00001.jpg", "cat/0.png")
    ids = RECTANGLE.copy()
    ids[0, 5] = 2
    indexed(tmp_path / "masks" / "dog" / "00000.png", ids)
    indexed(tmp_path / "masks" / "dog" / "00001.png", np.zeros_like(ids))
    (tmp_path / "masks" / "cat").mkdir()
    Image.fromarray(255 * RECTANGLE).save(tmp_path / "masks" / "cat" / "0.png")
    return tmp_path


def test_davis_values_are_instances_in_palettes_and_in_grey(davis_folder):
    clips = read_davis(davis_folder)
    cat, dog = clips.videos
    assert (clips.classes, cat.name, dog.name) == (("object",), "cat", "dog")
    assert [instance.id for instance in cat.instances] == [255]
    assert [instance.id for instance in dog.instances] == [1, 2]
    assert np.array_equal(shown(cat), [RECTANGLE])
    assert np.array_equal(shown(dog, 0), [RECTANGLE, np.zeros(SIZE)])
    assert shown(dog, 1).sum() == 1


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_davis_classes_come_from_a_file(davis_folder, kind):
    content = {
        "json": {"dog": {"1": "animal", "2": "ball"}, "cat": "animal"},
        "csv": "video,id,class\ndog,1,animal\ndog,2,ball\ncat,,animal\n",
    }[kind]
    path = saved(davis_folder / f"classes.{kind}", content)
    clips = read_davis(davis_folder, path)
    assert clips.classes == ("animal", "ball")
    assert [i.label for video in clips.videos for i in video.instances] == [0, 0, 1]


def cvat(*tracks, size=5, meta="", labels=("car", "bus")):
    names = "".join(f"<label><name>{name}</name><attributes/></label>" for name in labels)
    inner = "".join(
        f'<track id="{number}" label="{label}">{shapes}</track>'
        for number, (label, shapes) in enumerate(tracks)
    )
    return (
        f"<?xml version='1.0'?><annotations><version>1.1</version><meta><task><size>{size}</size>"
        f"<original_size><width>6</width><height>4</height></original_size>{meta}"
        f"<labels>{names}</labels></task></meta>{inner}</annotations>"
    )


def polygon(frame, points="1,1;4,1;4,3;1,3", outside=0, keyframe=1):
    return (
        f'<polygon frame="{frame}" keyframe="{keyframe}" outside="{outside}" occluded="0" '
        f'points="{points}"/>'
    )


def read(tmp_path, content, count=5, **options):
    frames(tmp_path / "images", *(f"frame_{t:06d}.png" for t in range(count)))
    return read_cvat(saved(tmp_path / "a.xml", content), tmp_path / "images", **options)


def test_cvat_shows_a_polygon_until_the_next_keyframe_or_outside(tmp_path):
    shapes = polygon(1) + polygon(2, "0,0;1,0;1,1;0,1") + polygon(4, outside=1)
    clips = read(tmp_path, cvat(("bus", shapes)))
    (video,) = clips.videos
    corner = np.zeros(SIZE)
    corner[0, 0] = 1
    empty = np.zeros(SIZE)
    assert clips.classes == ("car", "bus")
    assert [instance.label for instance in video.instances] == [1]
    assert np.array_equal(shown(video), [empty, RECTANGLE, corner, corner, empty])


def test_cvat_shows_the_last_polygon_to_the_end(tmp_path):
    (video,) = read(tmp_path, cvat(("car", polygon(3)))).videos
    assert video.shows == (False, False, False, True, True)


def test_cvat_frames_between_keyframes_are_read_as_they_are_written(tmp_path):
    between = polygon(1, "1,0;2,0;2,1;1,1", keyframe=0)
    (video,) = read(tmp_path, cvat(("car", polygon(0) + between + polygon(2)))).videos
    assert shown(video)[1].sum() == 1
    assert shown(video)[1][0, 1] == 1


def test_a_cvat_brush_mask_runs_by_rows_within_its_box(tmp_path):
    # Box of 3 x 2 at column 1, row 1: off 1, on 2 | on 1, off 1, on 1.
    brush = '<mask frame="0" outside="0" rle="1,3,1,1" left="1" top="1" width="3" height="2"/>'
    (video,) = read(tmp_path, cvat(("car", brush))).videos
    wanted = np.zeros(SIZE)
    wanted[1, 2:4], wanted[2, 1], wanted[2, 3] = 1, 1, 1
    assert np.array_equal(shown(video)[0], wanted)


def test_cvat_boxes_become_rectangles_only_when_asked(tmp_path):
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="4" ybr="3"/>'
    (video,) = read(tmp_path, cvat(("car", box)), boxes=True).videos
    assert np.array_equal(shown(video)[0], RECTANGLE)


def test_cvat_frame_numbers_of_a_part_of_a_video_count_from_its_start(tmp_path):
    meta = "<start_frame>10</start_frame><frame_filter>step=5</frame_filter>"
    shapes = polygon(15) + polygon(20, outside=1)
    (video,) = read(tmp_path, cvat(("car", shapes), meta=meta)).videos
    assert video.shows == (False, True, False, False, False)


def test_formats_are_told_by_what_a_source_looks_like(ytvis_file, tmp_path):
    coco = saved(tmp_path / "coco.json", coco_video())
    xml = saved(tmp_path / "a.xml", cvat())
    (tmp_path / "masks").mkdir()
    assert [detect(path) for path in (ytvis_file, coco, xml)] == ["ytvis", "coco-vid", "cvat"]
    assert detect(tmp_path) == "davis"


def test_a_folder_that_cvat_exports_holds_its_frames(tmp_path):
    frames(tmp_path / "images", "0.png", "1.png")
    saved(tmp_path / "annotations.xml", cvat(("car", polygon(0)), size=2))
    clips = read_source(tmp_path)
    assert [path.name for path in clips.videos[0].frames] == ["0.png", "1.png"]


def test_a_list_of_classes_orders_them(ytvis_file, tmp_path):
    names = saved(tmp_path / "names.txt", "crab\nfish\n")
    assert read_source(ytvis_file, class_file=names).classes == ("crab", "fish")
