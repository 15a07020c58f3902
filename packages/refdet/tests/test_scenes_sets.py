import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError, InputError
from mlkit_refdet.episodes.coco import read_coco
from mlkit_refdet.scenes.cutouts import read_cut_out, white_mask
from mlkit_refdet.scenes.looks import LookRanges
from mlkit_refdet.scenes.scene_set import LEAST_SEEN, SceneSource, random_crop, write_scenes

NAMES = ("apple", "box", "cone", "drum")
SMALL = LookRanges((14, 40))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return four photos on white and two backgrounds."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    cutouts = {}
    for number, name in enumerate(NAMES):
        photo = np.full((60, 60, 3), 255, np.uint8)
        photo[10:50, 10 + 4 * number : 50] = rng.integers(0, 200, 3)
        cutouts[name] = folder / f"{name}.png"
        Image.fromarray(photo).save(cutouts[name])
    backgrounds = []
    for number in range(2):
        backgrounds.append(folder / f"back{number}.jpg")
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(backgrounds[-1])
    return cutouts, backgrounds


def write(out, parts, **changes):
    options = {"classes": NAMES, "count": 6, "size": 96, "backgrounds_only": 2, "seed": 5}
    return write_scenes(out, *parts, **{**options, "ranges": SMALL, **changes})


def test_a_set_is_read_back_by_the_data_component(tmp_path, parts):
    write(tmp_path, parts)
    index = read_coco(tmp_path)
    assert [one.name for one in index.classes] == sorted(NAMES)
    assert all(len(one.photos) == 3 for one in index.classes)
    footage = index.footage[0]
    assert len(footage.frames) == 8
    assert set(footage.sizes.values()) == {(96, 96)}
    assert footage.background(5) == [6, 7]
    assert all(2 <= len(boxes) <= 3 for boxes in footage.boxes.values())


def test_boxes_of_the_file_are_those_of_the_scenes(tmp_path, parts):
    content = json.loads(write(tmp_path, parts).read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    source = SceneSource(*parts, classes=NAMES, size=96, seed=5, ranges=SMALL)
    for number, image in enumerate(content["images"][:6]):
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        written = [(names[r["category_id"]], tuple(r["bbox"])) for r in rows]
        scene = source.scene(number)
        told = [(n, (x1, y1, x2 - x1, y2 - y1)) for n, (x1, y1, x2, y2) in scene.objects]
        assert written == told
        stored = np.asarray(Image.open(tmp_path / "images" / image["file_name"]), float)
        assert np.abs(stored - scene.image).mean() < 6  # JPEG of noise


def test_every_image_depends_on_seed_and_number_alone(tmp_path, parts):
    write(tmp_path / "few", parts, count=2, backgrounds_only=1)
    write(tmp_path / "many", parts)
    write(tmp_path / "other", parts, seed=6)
    for name in ("scene_00001.jpg", "background_00000.jpg"):
        few = (tmp_path / "few" / "images" / name).read_bytes()
        assert few == (tmp_path / "many" / "images" / name).read_bytes()
        assert few != (tmp_path / "other" / "images" / name).read_bytes()
    view = Path("references/cone/view_2.png")
    assert (tmp_path / "few" / view).read_bytes() == (tmp_path / "many" / view).read_bytes()


def test_references_carry_the_objects_mask_as_alpha(tmp_path, parts):
    write(tmp_path, parts, count=1)
    for size, (low, high) in enumerate(((32, 48), (60, 84), (104, 130)), 1):
        view = Image.open(tmp_path / "references" / "apple" / f"view_{size}.png")
        assert view.mode == "RGBA"
        assert view.size == (160, 160)
        left, top, right, bottom = view.getchannel("A").point(lambda v: 255 * (v > 127)).getbbox()
        assert 0.85 * low <= max(right - left, bottom - top) <= 1.2 * high


def test_every_class_leads_equally_often_and_none_comes_twice_in_a_scene(parts):
    source = SceneSource(*parts, classes=NAMES, size=96, ranges=SMALL)
    scenes = [source.scene(number) for number in range(12)]
    assert Counter(scene.objects[0][0] for scene in scenes) == dict.fromkeys(NAMES, 3)
    for scene in scenes:
        names = [name for name, _ in scene.objects]
        assert len(set(names)) == len(names)


def test_crowded_scenes_leave_out_what_would_hide_others(parts):
    ranges = LookRanges((60, 60), cover_chance=0)
    source = SceneSource(*parts, classes=NAMES, size=64, distractors=(3, 3), ranges=ranges)
    counts = [len(source.scene(number).objects) for number in range(4)]
    assert min(counts) >= 1
    assert max(counts) < 4
    assert 0 < LEAST_SEEN < 1


def test_a_set_without_distractors_shows_one_object_each(parts):
    source = SceneSource(*parts, classes=NAMES[:1], size=96, distractors=(0, 0), ranges=SMALL)
    assert [name for name, _ in source.scene(3).objects] == ["apple"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("apple", "pear")}, "no cut-out is named 'pear'"),
        ({"distractors": (1, 4)}, "expected fewer than there are"),
        ({"classes": ("apple", "apple"), "distractors": (0, 0)}, "distinct classes"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, parts, changes, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, parts, **changes)


def test_a_class_that_is_no_folders_name_is_refused(tmp_path, parts):
    cutouts = {**parts[0], "../up": parts[0]["apple"]}
    with pytest.raises(InputError, match=r"'\.\./up' cannot be the name of a folder"):
        write(tmp_path, (cutouts, parts[1]), classes=(*NAMES, "../up"))


def test_no_background_is_refused(tmp_path, parts):
    with pytest.raises(InputError, match="expected one photo or more"):
        write(tmp_path, (parts[0], []))


def test_a_damaged_background_is_named(tmp_path, parts):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        write(tmp_path / "out", (parts[0], [tmp_path / "bad.jpg"]))


def test_crops_are_squares_of_the_photo():
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[..., 0] = np.arange(100)
    crop = random_crop(photo, 32, np.random.default_rng(0))
    assert crop.shape == (32, 32, 3)
    slope = np.abs(np.diff(crop[0, 4:-4, 0].astype(float))).mean()
    assert 30 / 32 * 0.9 <= slope <= 60 / 32 * 1.1  # half to all of the shorter side


def products():
    """Return the folder of product photos, or skip."""
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MLKIT_DATA", default)) / "refdet" / "products"
    if not folder.is_dir():
        pytest.skip(f"product photos are not at {folder}; set MLKIT_DATA")
    return sorted(folder.glob("*.jpg"))


def test_masks_of_real_products_hold_all_that_is_not_white():
    for path in products():
        photo = np.asarray(Image.open(path).convert("RGB"))
        mask = white_mask(photo)
        coloured = photo.min(-1) < 200
        assert (mask & coloured).sum() > 0.97 * coloured.sum(), path.name
        assert not mask[[0, -1]].all()
        cut = read_cut_out(path)
        assert (cut[..., 3] > 127).mean() > 0.15, path.name  # a leek that lies across
