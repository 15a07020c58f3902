"""Broken folders of masks, CVAT exports and sources of no known kind are refused in words."""

import json

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError, InputError
from mlkit_dvis.clips.formats.davis import read_davis
from mlkit_dvis.clips.formats.reading import read_source


def frames(root, count):
    root.mkdir(parents=True, exist_ok=True)
    for t in range(count):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / f"{t}.png")


def davis(folder):
    frames(folder / "frames" / "a", 2)
    (folder / "masks" / "a").mkdir(parents=True)
    for t in range(2):
        mask(np.eye(4, 6, dtype=np.uint8), t)(folder)


def mask(values, t=0):
    return lambda folder: Image.fromarray(values).save(folder / "masks" / "a" / f"{t}.png")


def remove(name):
    return lambda folder: (folder / name).unlink()


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


DAVIS = {
    "no mask": (remove("masks/a/1.png"), r"video a: frame 1 has no mask .*masks/a/1\.png"),
    "mask without frame": (remove("frames/a/1.png"), r"video a: mask 1\.png has no frame"),
    "picture for a mask": (
        mask(np.zeros((4, 6, 3), np.uint8)),
        r"video a: mask 0\.png is a picture of mode RGB: expected a palette or grey",
    ),
    "mask of another size": (
        mask(np.zeros((6, 4), np.uint8)),
        r"video a: mask 0\.png is 6 x 4, its frame 4 x 6 \(height x width\)",
    ),
    "broken mask": (text("masks/a/0.png", "x"), r"video a: mask 0\.png is not a readable image"),
    "frames of two sizes": (
        lambda folder: Image.new("RGB", (8, 8)).save(folder / "frames" / "a" / "1.png"),
        r"video a: 1\.png is of another size than 0\.png",
    ),
    "no class": (text("classes.json", '{"b": "x"}'), "video a: the class file names no class of"),
    "class of nothing": (
        text("classes.json", '{"a": "x", "b": {"3": "y"}}'),
        "class of b: no mask shows instance 3",
    ),
    "no class file": (text("classes.json", "[1]"), r"not a file of class names: expected an obje"),
    "class csv": (text("classes.csv", "film,class\na,x\n"), "not a file of class names: 'video'"),
}


@pytest.mark.parametrize("name", DAVIS)
def test_a_broken_folder_of_masks_is_refused(tmp_path, name):
    change, message = DAVIS[name]
    davis(tmp_path)
    change(tmp_path)
    names = next(iter(tmp_path.glob("classes.*")), None)
    with pytest.raises(DataError, match=message):
        read_davis(tmp_path, names)


def cvat(inner="", *, size=2, labels="car", root="annotations", head=""):
    return (
        f"{head}<{root}><meta><task><size>{size}</size><labels><label><name>{labels}</name></label>"
        f"</labels></task></meta>{inner}</{root}>"
    )


def track(shapes, label="car"):
    return f'<track id="3" label="{label}">{shapes}</track>'


SQUARE = '<polygon frame="0" outside="0" points="1,1;3,1;3,3"/>'
ENTITY = '<!DOCTYPE a [<!ENTITY b "boom">]>'
CVAT = {
    "not xml": ("<annotations>", "not a readable XML file"),
    "other xml": (cvat(root="data"), "not a CVAT export: expected <annotations>, got <data>"),
    "entities": (cvat(track(SQUARE), head=ENTITY), "document type or entities, which are refused"),
    "no tracks": (cvat(), "annotations: it holds no track"),
    "images": (cvat('<image id="0" name="a.png"/>'), "tracks no objects: it is no export of a vid"),
    "two tasks": (
        cvat().replace("</meta>", "<task><size>1</size></task></meta>"),
        "holds 2 tasks",
    ),
    "no size": (cvat(size=""), "meta: size, start_frame, frame_filter: invalid literal"),
    "other length": (cvat(track(SQUARE), size=9), "meta.size: the task has 9 frames, .* has 2"),
    "other label": (
        cvat(track(SQUARE, "van")),
        "track 3: its label 'van' is none of the classes car",
    ),
    "box": (
        cvat(track('<box frame="0" outside="0" xtl="0" ytl="0" xbr="2" ybr="2"/>')),
        "track 3: frame 0: a box is no mask; `--boxes` takes it as a rectangle",
    ),
    "line": (
        cvat(track('<polyline frame="1" outside="0" points="1,1;3,1;3,3"/>')),
        "track 3: frame 1: expected polygon, mask, box, got <polyline>",
    ),
    "frame beyond": (
        cvat(track(SQUARE.replace('frame="0"', 'frame="7"'))),
        "track 3: <polygon> at frame '7': the task has no such frame",
    ),
    "points": (
        cvat(track(SQUARE.replace("3,3", "3"))),
        "track 3: frame 0: <polygon>: points: expected x,y;x,y;",
    ),
    "brush": (
        cvat(track('<mask frame="0" rle="1,2" left="0" top="0" width="2" height="2"/>')),
        "track 3: frame 0: <mask>: rle: covers 3 pixels, its box has 4",
    ),
    "brush outside": (
        cvat(track('<mask frame="0" rle="0,4" left="5" top="0" width="2" height="2"/>')),
        "track 3: frame 0: <mask>: its box 5, 0, 2, 2 leaves the frame",
    ),
}


@pytest.mark.parametrize("name", CVAT)
def test_a_broken_cvat_export_is_refused(tmp_path, name):
    content, message = CVAT[name]
    frames(tmp_path / "images", 2)
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / "annotations.xml")


SOURCES = {
    "gone.json": "no such file or folder",
    "a.zip": "an archive",
    "a.csv": "a file of no known format",
    "empty": "a folder of no known layout",
    "other.json": "a JSON of no known format",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_looks_like_nothing_known_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").touch()
    (tmp_path / "a.csv").touch()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match=SOURCES[name]):
        read_source(tmp_path / name)


def test_frames_that_lie_elsewhere_are_asked_for(tmp_path):
    (tmp_path / "videos.json").write_text(json.dumps({"videos": []}))
    with pytest.raises(DataError, match="no folder frames, JPEGImages, images beside it") as caught:
        read_source(tmp_path / "videos.json")
    assert caught.value.hint == "name it by --frames"


def test_boxes_are_for_cvat_alone(tmp_path):
    davis(tmp_path)
    with pytest.raises(InputError, match="--boxes: only CVAT's are taken as masks"):
        read_source(tmp_path, boxes=True)
