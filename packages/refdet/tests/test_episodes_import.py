"""References cut out of labelled images, and the verb that does it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from mlkit_core import load_run
from mlkit_core.build import build_data
from mlkit_core.config import load_config
from mlkit_core.errors import DataError
from mlkit_refdet.episodes.coco import read_coco
from mlkit_refdet.episodes.crops import choose_references, write_set
from mlkit_refdet.episodes.labels import LabelledImage, LabelledObject, read_labels
from mlkit_refdet.verbs.imports import import_labels

SIZE = (60, 80)
TWO_SETS = """
name: two
data: {{name: reference-frames, root: train, images: {images}, val_fold: [1, 2], test_root: both,
  n_way: 1, n_query: 1, shots: 1, eval_episodes: 6, query_size: 96, support_size: 32}}
model:
  encoders: {{query: {{name: pixels}}, support: {{name: pixels}}, asked: {{name: asked-classes}}}}
  head: {{name: template-match, sizes: [40]}}
metrics: [{{name: few-shot, novel: [jar]}}]
trainer: {{name: none}}
"""


def image(number: int, *objects: tuple[str, int]) -> LabelledImage:
    """An image that is not there, of objects by name and side."""
    made = tuple(LabelledObject(name, (0, 0, side, side)) for name, side in objects)
    return LabelledImage(Path(f"/images/{number}.png"), SIZE, made)


def test_references_are_the_largest_objects_of_other_images_than_are_searched():
    images = [image(n, ("cup", 10 + n)) for n in range(6)] + [image(6)]
    found = choose_references(images, shots=2, min_images=4, min_px=4)
    assert [number for number, _ in found.classes["cup"]] == [5, 4]
    assert (found.sources, found.queries, found.empty) == ((4, 5), (0, 1, 2, 3), (6,))


def test_an_image_gives_one_reference_of_a_class_and_its_largest():
    images = [image(0, ("cup", 20), ("cup", 40)), *(image(n, ("cup", 10)) for n in (1, 2, 3))]
    found = choose_references(images, shots=2, min_images=3, min_px=4)
    numbers = [number for number, _ in found.classes["cup"]]
    assert numbers == [0, 1]
    assert found.classes["cup"][0][1].xyxy == (0, 0, 40, 40)


def test_images_that_already_gave_a_reference_come_first():
    """The rare jar takes images 0 and 1; the cup, larger elsewhere, takes the same."""
    both = [image(n, ("cup", 10), ("jar", 10)) for n in range(3)]
    images = [*both, *(image(n, ("cup", 30)) for n in range(3, 8))]
    found = choose_references(images, shots=2, min_images=3, min_px=4)
    assert found.sources == (0, 1)


def test_classes_with_too_few_or_too_small_objects_are_left_out():
    images = [image(n, ("cup", 40), ("pin", 5)) for n in range(6)] + [image(6, ("jar", 40))]
    found = choose_references(images, shots=2, min_images=4, min_px=32)
    assert [*found.classes] == ["cup"]
    assert found.left_out == ("jar", "pin")


def test_no_image_is_both_searched_and_a_source_of_references():
    rng = np.random.default_rng(0)
    images = [
        image(n, *((name, 40) for name in rng.choice(list("abcdefgh"), 3, replace=False)))
        for n in range(40)
    ]
    found = choose_references(images, shots=3, min_images=4, min_px=4)
    assert not {*found.sources} & {*found.queries, *found.empty}
    assert {*found.sources} == {n for own in found.classes.values() for n, _ in own}
    for name in found.classes:
        left = [n for n in found.queries if any(o.name == name for o in images[n].objects)]
        assert left


def test_a_crowd_is_no_reference_and_makes_no_query():
    """The crowd of image 0 is the largest box; image 5 shows a crowd alone."""
    crowd = LabelledObject("cup", (0, 0, 60, 60), crowd=True)
    first = image(0, ("cup", 10))
    images = [
        LabelledImage(first.path, SIZE, (*first.objects, crowd)),
        *(image(n, ("cup", 10 + n)) for n in range(1, 5)),
        LabelledImage(Path("/images/5.png"), SIZE, (crowd,)),
    ]
    found = choose_references(images, shots=2, min_images=3, min_px=4)
    assert [(n, one.xyxy) for n, one in found.classes["cup"]] == [
        (4, (0, 0, 14, 14)),
        (3, (0, 0, 13, 13)),
    ]
    assert (found.queries, found.empty) == ((0, 1, 2), (5,))
    assert choose_references(images, shots=2, min_images=6, min_px=4).left_out == ("cup",)


@pytest.fixture
def labelled(tmp_path):
    """A COCO JSON with polygons for half of its objects, and its images."""
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 7, "name": "cup"}, {"id": 9, "name": "jar"}]
    for number in range(12):
        picture = np.full((*SIZE, 3), 50, np.uint8)
        picture[10:50, 20:60] = (200, 20 * number, 0)
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": 60, "width": 80}
        )
        row = {"id": number, "image_id": number, "category_id": (7, 9)[number % 2]}
        polygon = [20, 10, 59, 10, 59, 49, 20, 49] if number % 2 else None
        row |= {"bbox": [20, 10, 40, 40], "segmentation": [polygon] if polygon else []}
        content["annotations"].append(row)
    (root / "labels.json").write_text(json.dumps(content))
    return root


def test_what_is_written_is_read_with_masks_and_boxes(labelled, tmp_path):
    images = read_labels(labelled / "labels.json")
    found = choose_references(images, shots=3, min_images=4, min_px=32)
    root = write_set(images, found, tmp_path / "out")
    assert root == (labelled / "images").resolve()
    index = read_coco(tmp_path / "out", images=str(root))
    assert [one.name for one in index.classes] == ["cup", "jar"]
    cup, jar = (one.photos for one in index.classes)
    assert [photo.box_xyxy for photo in cup] == [(6, 6, 46, 46)] * 3  # a margin of 15 %
    mask = np.asarray(Image.open(jar[0].mask)) > 127
    assert mask[6:46, 6:46].all()
    assert mask.sum() == 40 * 40
    assert len(index.footage[0].frames) == 6
    assert index.footage[0].boxes[0][0].xyxy == (20, 10, 60, 50)


def test_an_image_that_shows_a_crowd_alone_is_no_clear_background(labelled, tmp_path):
    file = labelled / "labels.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    images = read_labels(file)
    found = choose_references(images, shots=3, min_images=4, min_px=32)
    root = write_set(images, found, tmp_path / "out")
    footage = read_coco(tmp_path / "out", images=str(root)).footage[0]
    assert footage.files[0].name == "0.png"
    assert 0 not in footage.boxes
    assert footage.background(0) == []


def test_yolo_boxes_and_polygons_become_pixels(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(2):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "labels" / "0.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: cup, 1: jar}\n")
    first, second = read_labels(tmp_path / "data.yaml")
    assert first.objects[0] == LabelledObject("jar", (30, 15, 50, 45))
    assert first.objects[1].xyxy == (0, 0, 40, 30)
    assert first.objects[1].outline == (((0, 0), (40, 0), (40, 30)),)
    assert second.objects == ()


def test_all_problems_of_labels_come_at_once(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(4):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{number}.png")
    lines = ("2 .5 .5 .1 .1", "0 .5 .5 .1", "0 .5 nan .1 .1", "0 .5 .5 1.5 .1")
    for number, line in enumerate(lines):
        (tmp_path / "labels" / f"{number}.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("train: images\nval: nowhere\nnames: [cup, jar]\n")
    with pytest.raises(DataError) as caught:
        read_labels(tmp_path / "data.yaml")
    folder = tmp_path / "labels"
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/data.yaml: no such folder or list: {tmp_path}/nowhere",
        f"{folder}/0.txt:1: class: expected 0 to 1, got 2",
        f"{folder}/1.txt:1: expected class and 4 values, or class and a polygon, got 4 values",
        f"{folder}/2.txt:1: expected values from 0 to 1, got '.5 nan .1 .1'",
        f"{folder}/3.txt:1: expected values from 0 to 1, got '.5 .5 1.5 .1'",
    ]


def run(*args: str):
    app = Typer()
    app.command()(import_labels)
    return CliRunner().invoke(app, [*args], catch_exceptions=True)


def test_the_verb_says_what_is_used_and_prints_the_run_files_line(labelled, tmp_path):
    out = tmp_path / "set"
    told = run(str(labelled / "labels.json"), "--out", str(out), "--novel", "1/2")
    assert told.exit_code == 0
    assert (
        "frames: of 12 images 6 with and 0 without an object of them are used, 6 gave"
        in told.output
    )
    assert '\nnovel: ["jar"]\n' in told.output
    assert sorted(path.name for path in out.iterdir()) == ["annotations.json", "references"]
    assert f"root: {out}, images: {os.path.relpath(labelled / 'images', out)}" in told.output
    said = json.loads(
        run(str(labelled / "labels.json"), "-o", str(tmp_path / "b"), "--json").output
    )
    assert (said["images"], said["sources_of_references"]) == (12, 6)


def halves(labelled):
    """Return two label files over the same images: the first six of them, and the others."""
    content = json.loads((labelled / "labels.json").read_text())
    files = [labelled / "first.json", labelled / "others.json"]
    for half, file in enumerate(files):
        images = [row for row in content["images"] if row["id"] // 6 == half]
        rows = [row for row in content["annotations"] if row["image_id"] // 6 == half]
        file.write_text(json.dumps(content | {"images": images, "annotations": rows}))
    return files


def test_base_and_novel_classes_have_figures_on_a_second_set(labelled, tmp_path):
    for file, name in zip(halves(labelled), ("train", "both"), strict=True):
        args = ("--shots", "1", "--min-images", "2", "--novel", "1/2")
        assert run(str(file), "-o", str(tmp_path / name), *args).exit_code == 0
    text = TWO_SETS.format(images=os.path.relpath(labelled / "images", tmp_path / "train"))
    (tmp_path / "run.yaml").write_text(text)
    made = load_run(tmp_path / "run.yaml")
    made.folder = tmp_path / "runs" / "two"
    made.fit()
    found = load_run(made.folder).evaluate("test")
    assert {"few-shot.map50_base", "few-shot.map50_novel"} <= {*found.metrics}
    sides = {row["key"]: row["classes"] for row in found.rows}
    assert sides == {"cup": "base", "jar": "novel"}
    data = build_data(load_config(tmp_path / "run.yaml").stages[0].data)
    draws = [draw for unit in data.units("train", 0) for draw in unit]
    assert {data.classes[label] for draw in draws for label in draw.ways} == {"cup"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--novel", "4/4"), "--novel: expected WHICH/OF as 3/4, got '4/4'"),
        (("--min-images", "99"), "import: no class has enough images"),
    ],
)
def test_the_verb_refuses_what_leads_nowhere(labelled, tmp_path, args, expected):
    told = run(str(labelled / "labels.json"), "-o", str(tmp_path / "out"), *args)
    assert str(told.exception) == expected


def test_a_folder_with_files_in_it_is_not_written_to(labelled, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    told = run(str(labelled / "labels.json"), "-o", str(tmp_path / "out"))
    assert str(told.exception) == f"{tmp_path}/out: is not empty"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_real_coco_images_give_classes_with_crops_of_other_images(tmp_path):
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MLKIT_DATA", default)) / "coco"
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set MLKIT_DATA")
    images = read_labels(
        folder / "annotations" / "instances_train2017_100.json",
        images=folder / "images" / "train2017",
    )
    found = choose_references(images, shots=3, min_images=4, min_px=32)
    root = write_set(images, found, tmp_path / "out")
    index = read_coco(tmp_path / "out", images=str(root))
    assert len(index.classes) == len(found.classes) > 20
    assert all(len(one.photos) == 3 for one in index.classes)
    shown = {box.name for own in index.footage[0].boxes.values() for box in own}
    assert shown == {*found.classes}
