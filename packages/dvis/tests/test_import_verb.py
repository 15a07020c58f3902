"""`mlkit dvis import` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlkit_cli.main import main
from mlkit_dvis.clips.formats.ytvis import read_ytvis

SQUARE = [[1, 1, 4, 1, 4, 3, 1, 3]]
MASK = np.array([[0] * 6, [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6], np.uint8)
POLYGON = '<polygon frame="0" outside="0" points="1,1;4,1;4,3;1,3"/>'
BOX = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="4" ybr="3"/>'


def cvat(shape):
    return (
        "<annotations><meta><task><size>2</size><labels><label><name>object</name></label></labels>"
        f'</task></meta><track id="0" label="object">{shape}</track></annotations>'
    )


def coco(images):
    name = {"video_id": 1, "width": 6, "height": 4}
    row = {"category_id": 1, "instance_id": 2, "segmentation": SQUARE}
    return {
        "categories": [{"id": 1, "name": "object"}],
        "images": [
            {**name, "id": n, "frame_id": n, "file_name": f"{images}{n}.png"} for n in (0, 1)
        ],
        "annotations": [{**row, "id": n + 1, "image_id": n} for n in (0, 1)],
    }


def ytvis():
    return {
        "categories": [{"id": 1, "name": "object"}],
        "videos": [{"id": 1, "width": 6, "height": 4, "file_names": ["reef/0.png", "reef/1.png"]}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [SQUARE, SQUARE]}
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for kind, picture in (("frames", Image.new("RGB", (6, 4))), ("masks", Image.fromarray(MASK))):
        path = tmp_path / kind / "reef"
        path.mkdir(parents=True)
        for number in (0, 1):
            picture.save(path / f"{number}.png")
    (tmp_path / "ytvis.json").write_text(json.dumps(ytvis()))
    (tmp_path / "coco.json").write_text(json.dumps(coco("reef/")))
    (tmp_path / "polygon.xml").write_text(cvat(POLYGON))
    (tmp_path / "box.xml").write_text(cvat(BOX))
    return tmp_path


SOURCES = {
    "ytvis": ("ytvis.json",),
    "coco-vid": ("coco.json",),
    "davis": ("",),
    "cvat": ("polygon.xml", "--frames", "frames/reef"),
    "cvat boxes": ("box.xml", "--frames", "frames/reef", "--boxes"),
}


def run(folder, monkeypatch, *arguments):
    monkeypatch.chdir(folder)
    return main(["dvis", "import", arguments[0] or ".", *arguments[1:]])


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_every_format_gives_the_same_file(folder, monkeypatch, capsys, name, chosen):
    kind = ("--format", name.split()[0]) if chosen else ()
    assert run(folder, monkeypatch, *SOURCES[name], "-o", "out.json", "--json", *kind) == 0
    said = json.loads(capsys.readouterr().out)
    assert [said[key] for key in ("videos", "frames", "instances")] == [1, 2, 1]
    assert said["classes"] == ["object"]
    content = json.loads((folder / "out.json").read_text())
    (video,), (row,) = content["videos"], content["annotations"]
    assert video["file_names"] == ["reef/0.png", "reef/1.png"]
    assert [video[key] for key in ("id", "width", "height", "length")] == [1, 6, 4, 2]
    assert [row[key] for key in ("video_id", "category_id", "iscrowd")] == [1, 1, 0]
    assert all(isinstance(rle["counts"], str) for rle in row["segmentations"])
    assert row["areas"] == [6, 6]
    assert row["bboxes"] == [[1, 1, 3, 2]] * 2


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_written_is_read_with_the_folder_that_is_told(folder, monkeypatch, capsys, name):
    assert run(folder, monkeypatch, *SOURCES[name], "-o", "out.json", "--json") == 0
    root = json.loads(capsys.readouterr().out)["frames_root"]
    (video,) = read_ytvis(folder / "out.json", folder / root).videos
    assert np.array_equal(video.masks([0, 1])[:, 0], np.stack([MASK] * 2))


def test_people_are_told_what_is_in_the_file_and_how_to_go_on(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch, "ytvis.json", "-o", "out.json") == 0
    assert capsys.readouterr().out.splitlines() == [
        "out.json: 1 videos, 2 frames, 1 instances; classes object",
        "data: {name: video-clips, annotations: out.json, frames: frames}",
    ]


def test_classes_of_davis_instances_come_from_a_file(folder, monkeypatch):
    (folder / "names.json").write_text('{"reef": {"1": "fish"}}')
    assert run(folder, monkeypatch, "", "-o", "out.json", "--classes", "names.json") == 0
    content = json.loads((folder / "out.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "fish"}]


def test_a_list_of_classes_orders_them(folder, monkeypatch):
    (folder / "names.txt").write_text("fish\nobject\n")
    assert run(folder, monkeypatch, "coco.json", "-o", "out.json", "--classes", "names.txt") == 0
    content = json.loads((folder / "out.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "fish"}, {"id": 2, "name": "object"}]
    assert content["annotations"][0]["category_id"] == 2


BROKEN = {
    "no source": (("gone.json",), "error: gone.json: no such file or folder"),
    "a box": (
        ("box.xml", "--frames", "frames/reef"),
        "error: box.xml: track 0: frame 0: a box is no mask; `--boxes` takes it as a rectangle",
    ),
    "boxes elsewhere": (
        ("ytvis.json", "--boxes"),
        "error: --boxes: only CVAT's are taken as masks, ytvis.json is ytvis",
    ),
    "frames elsewhere": (
        ("ytvis.json", "--frames", "gone"),
        "error: gone: no such file or folder",
    ),
    "wrong format": (
        ("ytvis.json", "--format", "coco-vid"),
        "error: ytvis.json: not a COCO-VID JSON: it has no list 'images'",
    ),
    "no class list": (
        ("ytvis.json", "--classes", "gone.txt"),
        "error: gone.txt: no such file",
    ),
    "no frames of masks": (
        ("ytvis.json", "--frames", "masks/reef"),
        "error: ytvis.json: video 1: no file masks/reef/reef/0.png and 1 more of its frames",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_ends_in_words_and_with_code_2(folder, monkeypatch, capsys, name):
    arguments, message = BROKEN[name]
    assert run(folder, monkeypatch, *arguments, "-o", "out.json") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[0] == message
    assert "Traceback" not in said
    assert not list(folder.glob("*out.json*"))


def test_an_earlier_file_stays_where_the_import_fails(folder, monkeypatch):
    (folder / "out.json").write_text("earlier")
    assert run(folder, monkeypatch, "box.xml", "--frames", "frames/reef", "-o", "out.json") == 2
    assert (folder / "out.json").read_text() == "earlier"


def test_a_folder_that_does_not_exist_is_told(folder, monkeypatch, capsys):
    assert run(folder, monkeypatch, "ytvis.json", "-o", "gone/out.json") == 1
    assert capsys.readouterr().err.startswith("error: gone/out.json: cannot be written: ")


def test_the_command_itself_refuses_without_a_traceback(folder):
    command = [sys.executable, "-m", "mlkit_cli", "dvis", "import", "box.xml", "-o", "out.json"]
    ended = subprocess.run(
        [*command, "--frames", "frames/reef"], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: box.xml: track 0: frame 0: a box is no mask")
    assert "Traceback" not in ended.stderr
