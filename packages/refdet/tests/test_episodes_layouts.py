"""Both layouts: what is read of good data sets, and what is said of broken ones."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.aeroeyes import read_aeroeyes
from mlkit_refdet.episodes.coco import read_coco
from mlkit_refdet.episodes.index import category_of


def said(read, *args, **options) -> list[str]:
    """Return the lines of the error that reading ends in."""
    with pytest.raises(DataError) as caught:
        read(*args, **options)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("Backpack_0", "Backpack"),
        ("Backpack_12", "Backpack"),
        ("Person1_0", "Person1"),
        ("Crate", "Crate"),
        ("7", "7"),
    ],
)
def test_a_class_is_of_the_category_without_its_number(name, category):
    assert category_of(name) == category


def test_an_aeroeyes_folder_is_read_with_photos_frames_and_boxes(aeroeyes):
    made = aeroeyes()
    found = read_aeroeyes(made.root)
    assert [one.name for one in found.classes] == [
        "Backpack_0",
        "Backpack_1",
        "Jacket_0",
        "Person1_0",
    ]
    assert [photo.path.name for photo in found.classes[0].photos] == [
        "img_1.jpg",
        "img_2.jpg",
        "img_3.jpg",
    ]
    video = found.footage[0]
    assert (video.name, len(video.frames), video.size, video.fps) == (
        "Backpack_0",
        40,
        (48, 64),
        10,
    )
    assert sorted(video.boxes) == [*range(8, 14)]
    assert video.boxes[8][0].xyxy == (10, 8, 30, 28)


def test_frames_beside_labelled_ones_are_no_background(aeroeyes):
    video = read_aeroeyes(aeroeyes({"Crate_0": (40, [8, 20])}).root).footage[0]
    assert video.background(0) == [f for f in range(40) if f not in (8, 20)]
    assert video.background(5) == [0, 1, 2, 14, *range(26, 40)]


def test_several_intervals_and_several_boxes_of_a_frame_are_kept(aeroeyes):
    made = aeroeyes({"Crate_0": (10, [2])})
    again = {"frame": 2, "x1": 1, "y1": 1, "x2": 9, "y2": 9}
    made.entries[0]["annotations"].append({"bboxes": [again, again]})
    made.write()
    boxes = read_aeroeyes(made.root).footage[0].boxes[2]
    assert [box.xyxy for box in boxes] == [(10, 8, 30, 28), (1, 1, 9, 9)]


def test_a_box_that_leaves_the_frame_is_clipped_to_it(aeroeyes):
    made = aeroeyes({"Crate_0": (10, [2])})
    made.boxes()[0] |= {"x1": -3, "x2": 80}
    made.write()
    assert read_aeroeyes(made.root).footage[0].boxes[2][0].xyxy == (0, 8, 64, 28)


def test_image_files_serve_as_frames_and_may_have_gaps(aeroeyes):
    made = aeroeyes({"Crate_0": (9, [4])}, as_frames=True)
    (made.folder("Crate_0") / "frames" / "000006.png").unlink()
    video = read_aeroeyes(made.root).footage[0]
    assert video.frames == (0, 1, 2, 3, 4, 5, 7, 8)
    assert video.background(1) == [0, 1, 2, 7, 8]


def _drop_photos(made):
    shutil.rmtree(made.folder("Crate_0") / "object_images")


def _drop_video(made):
    (made.folder("Crate_0") / "drone_video.mp4").unlink()


def _break_video(made):
    (made.folder("Crate_0") / "drone_video.mp4").write_bytes(b"no film" * 100)


def _break_photo(made):
    (made.folder("Crate_0") / "object_images" / "img_2.jpg").write_bytes(b"no photo")


def _box(**changes):
    def change(made):
        made.boxes()[0] |= changes
        made.write()

    return change


def _entry(number, **changes):
    def change(made):
        made.entries[number] |= changes
        made.write()

    return change


def _repeat(made):
    made.entries.append(made.entries[0])
    made.write()


def _forget(made):
    del made.entries[0]
    made.write()


def _mask(made):
    mask = Image.new("L", (5, 5), 255)
    mask.save(made.folder("Crate_0") / "object_images" / "img_1_mask.png")


def _boxes_file(content):
    def change(made):
        file = made.folder("Crate_0") / "object_images" / "boxes.json"
        file.write_text(json.dumps(content))

    return change


BROKEN = [
    (_drop_photos, "{crate}/object_images: holds no photo (.jpg, .jpeg, .png)"),
    (_drop_video, "{crate}: holds neither drone_video.mp4 nor frames/000000.jpg"),
    (
        _break_video,
        "{crate}/drone_video.mp4: not a readable video: invalid data found when processing input",
    ),
    (
        _break_photo,
        "{crate}/object_images/img_2.jpg: not a readable image: cannot identify image file "
        "'{crate}/object_images/img_2.jpg'",
    ),
    (
        _box(x2=10),
        "{file}: Crate_0: box 0: frame 2: x2 must be greater than x1, got 10 <= 10",
    ),
    (_box(y2=3), "{file}: Crate_0: box 0: frame 2: y2 must be greater than y1, got 3 <= 8"),
    (_box(frame=10), "{file}: Crate_0: box 0: frame 10: the video has 10 frames"),
    (_box(frame=-1), "{file}: Crate_0: box 0: frame: expected a number from 0, got -1"),
    (_box(frame="2"), "{file}: Crate_0: box 0: frame: expected a number from 0, got '2'"),
    (_box(frame=True), "{file}: Crate_0: box 0: frame: expected a number from 0, got True"),
    (
        _box(x1=math.nan),
        "{file}: Crate_0: box 0: frame 2: expected four numbers, got x1 nan, y1 8, x2 30, y2 28",
    ),
    (
        _box(y2=None),
        "{file}: Crate_0: box 0: frame 2: expected four numbers, got x1 10, y1 8, x2 30, y2 None",
    ),
    (
        _box(x1=70, x2=90),
        "{file}: Crate_0: box 0: frame 2: box (70, 8, 90, 28) lies outside of 64 x 48 pixels",
    ),
    (
        _entry(1, video_id="Tent_0"),
        "{file}: video_id 'Tent_0': no folder samples/Tent_0",
    ),
    (_entry(0, video_id="../x"), "{file}: [0]: video_id: expected a folder's name, got '../x'"),
    (_entry(0, annotations=7), "{file}: Crate_0: annotations: expected a list, got 7"),
    (
        _entry(0, annotations=[{"boxes": []}]),
        "{file}: Crate_0: annotations[0]: bboxes: expected a list of boxes, got None",
    ),
    (_repeat, "{file}: [2]: video_id 'Crate_0': comes twice"),
    (_forget, "{crate}: has no entry in annotations.json"),
    (_mask, "{crate}/object_images/img_1_mask.png: expected the size of img_1.jpg, 32 x 40"),
    (
        _boxes_file({"img_9.jpg": [1, 2, 3, 4]}),
        "{crate}/object_images/boxes.json: names 'img_9.jpg', which is no photo there",
    ),
    (
        _boxes_file({"img_1.jpg": [5, 5, 5, 9]}),
        "{crate}/object_images/boxes.json: img_1.jpg: box [5, 5, 5, 9] is empty in a photo of "
        "32 x 40",
    ),
]


@pytest.mark.parametrize(("change", "line"), BROKEN)
def test_a_broken_aeroeyes_folder_is_named_with_place_and_value(aeroeyes, change, line):
    made = aeroeyes({"Crate_0": (10, [2]), "Jar_0": (10, [3])})
    change(made)
    lines = said(read_aeroeyes, made.root)
    assert line.format(crate=made.folder("Crate_0"), file=made.file) in lines


def test_all_problems_of_a_folder_come_at_once(aeroeyes):
    made = aeroeyes({"Crate_0": (10, [2, 3]), "Jar_0": (10, [3]), "Tub_0": (10, [1])})
    made.boxes(0)[0] |= {"x2": 1}
    made.boxes(0)[1] |= {"frame": 99}
    made.boxes(1)[0] |= {"y1": math.inf}
    made.write()
    _drop_photos(made)
    (made.folder("Tub_0") / "drone_video.mp4").unlink()
    lines = said(read_aeroeyes, made.root)
    assert len(lines) == 5
    for part in ("x2 must", "frame 99", "inf", "holds no photo", "neither"):
        assert sum(part in line for line in lines) == 1


def test_a_file_that_is_no_list_or_is_missing_is_said(aeroeyes):
    made = aeroeyes({"Crate_0": (4, [2])})
    made.file.write_text("{}")
    expected = f"{made.file}: expected a list of one entry for each video"
    assert said(read_aeroeyes, made.root) == [expected]
    made.file.write_text("[")
    assert "not a readable JSON file" in said(read_aeroeyes, made.root)[0]
    made.file.unlink()
    assert said(read_aeroeyes, made.root) == [f"{made.file}: no such file"]


def test_frame_names_that_are_no_numbers_are_refused(aeroeyes):
    made = aeroeyes({"Crate_0": (4, [2])}, as_frames=True)
    folder = made.folder("Crate_0") / "frames"
    (folder / "000001.png").rename(folder / "frame_1.png")
    expected = f"{folder}: expected names as 000123.jpg, got 'frame_1.png'"
    assert said(read_aeroeyes, made.root) == [expected]


def test_a_box_in_a_frame_without_file_is_refused(aeroeyes):
    made = aeroeyes({"Crate_0": (6, [2])}, as_frames=True)
    (made.folder("Crate_0") / "frames" / "000002.png").unlink()
    expected = f"{made.file}: Crate_0: box 0: frame 2: no file frames/000002"
    assert said(read_aeroeyes, made.root) == [expected]


def test_verify_decodes_every_film(aeroeyes):
    made = aeroeyes({"Crate_0": (40, [2])})
    film = made.folder("Crate_0") / "drone_video.mp4"
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 300] = np.random.default_rng(0).bytes(300)
    film.write_bytes(content)
    read_aeroeyes(made.root)  # lists packets alone
    with pytest.raises(DataError, match=r"drone_video\.mp4: "):
        read_aeroeyes(made.root, verify=True)


def test_a_coco_folder_is_read_with_alpha_photos_and_boxes(coco):
    made = coco()
    found = read_coco(made.root)
    assert [one.name for one in found.classes] == ["bolt", "cap", "gear", "nut"]
    images = found.footage[0]
    assert images.boxes[5][0].name == "cap"
    assert images.boxes[5][0].xyxy == (20, 10, 44, 40)
    assert images.background(5) == [*range(16, 24)]
    assert not images.is_video


def test_a_category_without_photos_is_no_class_but_its_objects_are_no_background(coco):
    made = coco()
    shutil.rmtree(made.root / "references" / "nut")
    found = read_coco(made.root)
    assert [one.name for one in found.classes] == ["bolt", "cap", "gear"]
    assert 3 not in found.footage[0].boxes
    assert 3 not in found.footage[0].background(0)
    assert found.footage[0].objects(3) == 1


def test_a_crowd_is_no_object_and_no_background(coco):
    made = coco()
    made.content["annotations"][0]["iscrowd"] = 1
    made.write()
    images = read_coco(made.root).footage[0]
    assert 0 not in images.boxes
    assert 0 not in images.background(0)


def _row(kind, number, **changes):
    def change(made):
        made.content[kind][number] |= changes
        made.write()

    return change


def _remove(name):
    def change(made):
        path = made.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _rename_class(made):
    (made.root / "references" / "nut").rename(made.root / "references" / "nutt")


BROKEN_COCO = [
    (_remove("images/3.png"), "{root}/images/3.png: no such file"),
    (
        _row("images", 2, file_name="../2.png"),
        "{file}: file_name '../2.png': leaves the folder of images",
    ),
    (_row("images", 2, id=1), "{file}: images[2]: id 1: comes twice"),
    (
        _row("annotations", 4, bbox=[1, 2, -3, 4]),
        "{file}: annotations[4]: bbox: width and height must be positive, got -3 and 4",
    ),
    (
        _row("annotations", 4, bbox=[1, 2, math.nan, 4]),
        "{file}: annotations[4]: bbox: expected four numbers, got [1, 2, nan, 4]",
    ),
    (
        _row("annotations", 4, bbox=[100, 2, 5, 5]),
        "{file}: annotations[4]: bbox: [100, 2, 5, 5] lies outside of 80 x 60 pixels",
    ),
    (_row("annotations", 4, image_id=77), "{file}: annotations[4]: no image has id 77"),
    (_row("annotations", 4, category_id=9), "{file}: annotations[4]: no category has id 9"),
    (
        _row("categories", 1, name="bolt"),
        "{file}: categories[1]: name 'bolt': comes twice",
    ),
    (_rename_class, "{root}/references/nutt: no category is named 'nutt'"),
    (
        _remove("references"),
        "{root}/references: no such folder: photos lie in <category>/*.{{png,jpg}}",
    ),
]


@pytest.mark.parametrize(("change", "line"), BROKEN_COCO)
def test_a_broken_coco_folder_is_named_with_place_and_value(coco, change, line):
    made = coco()
    change(made)
    lines = said(read_coco, made.root)
    assert line.format(root=made.root, file=made.root / "annotations.json") in lines


def test_a_json_that_is_not_cocos_is_said(coco):
    made = coco()
    file = made.root / "annotations.json"
    file.write_text('{"images": []}')
    assert said(read_coco, made.root) == [f"{file}: lacks the lists annotations, categories"]
