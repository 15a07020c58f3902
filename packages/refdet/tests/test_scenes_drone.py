import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError, InputError
from mlkit_refdet.episodes.aeroeyes import read_aeroeyes
from mlkit_refdet.episodes.video import VideoFrames
from mlkit_refdet.scenes.camera import draw_flight, draw_place
from mlkit_refdet.scenes.clips import ClipPlan, draw_clip
from mlkit_refdet.scenes.drone import intervals, write_drone_set, write_product_clips
from mlkit_refdet.scenes.film import write_film
from mlkit_refdet.scenes.objects import KINDS, make_object
from mlkit_refdet.scenes.solids import Pose, block, draw_solid
from mlkit_refdet.scenes.terrain import ground

SIZE, FRAMES = (96, 160), 40
OPTIONS = {"videos": 2, "frames": FRAMES, "size": SIZE, "object_px": (14, 40)}


@pytest.fixture(scope="module")
def drone_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("drone")
    write_drone_set(out, **OPTIONS, seed=3)
    return out


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(8)
    target = draw_solid(make_object("Barrel", rng), Pose(30, 45), 60)
    others = [draw_solid(make_object("Crate", rng), Pose(10, 45), 60)]
    plan = ClipPlan(FRAMES, SIZE, object_px=(14, 40))
    return draw_clip(plan, ground((250, 416), rng), target, others, rng)


def test_a_set_is_read_back_whole(drone_set):
    index = read_aeroeyes(drone_set, verify=True)
    assert [one.name for one in index.classes] == ["Barrel_0", "Crate_0"]
    assert all(len(one.photos) == 3 for one in index.classes)
    for footage in index.footage:
        assert len(footage.frames) == FRAMES
        assert footage.size == SIZE
        assert 0.15 <= len(footage.boxes) / FRAMES <= 0.35
        for boxes in footage.boxes.values():
            x1, y1, x2, y2 = boxes[0].xyxy
            assert max(x2 - x1, y2 - y1) <= 40 * 1.5  # the diagonal of the largest, turned
            assert min(x2 - x1, y2 - y1) >= 3


def test_objects_come_in_one_to_three_visits(drone_set):
    entries = json.loads((drone_set / "annotations" / "annotations.json").read_text())
    for entry in entries:
        assert 1 <= len(entry["annotations"]) <= 3
        frames = [[b["frame"] for b in run["bboxes"]] for run in entry["annotations"]]
        assert all(run == list(range(run[0], run[-1] + 1)) for run in frames)
        assert all(later[0] > earlier[-1] + 1 for earlier, later in pairwise(frames))


def test_a_set_follows_its_seed(drone_set, tmp_path):
    write_drone_set(tmp_path / "one", **{**OPTIONS, "videos": 1}, seed=3)
    write_drone_set(tmp_path / "other", **{**OPTIONS, "videos": 1}, seed=4)
    first = [
        json.loads((root / "annotations" / "annotations.json").read_text())[0]
        for root in (drone_set, tmp_path / "one", tmp_path / "other")
    ]
    assert first[0] == first[1]
    assert first[0] != first[2]
    own = "samples/Crate_0/drone_video.mp4"
    films = [VideoFrames(root / own) for root in (drone_set, tmp_path / "one")]
    for t in (0, FRAMES // 2, FRAMES - 1):
        assert np.array_equal(films[0].read(t), films[1].read(t))


def test_numbers_of_frames_are_those_of_the_decoder(clip, tmp_path):
    drawn = [picture for picture, _ in clip.frames()]
    write_film(tmp_path / "film.mp4", drawn, SIZE, 10.0)
    film = VideoFrames(tmp_path / "film.mp4")
    assert len(film) == FRAMES
    stack = np.stack(drawn).astype(np.float32)
    for t in (0, 7, FRAMES - 1):
        nearest = np.abs(stack - film.read(t)).mean((1, 2, 3)).argmin()
        assert nearest == t


def test_without_a_box_nothing_of_the_object_is_drawn(clip):
    gone = replace(clip, target=replace(clip.target, place=(-1e6, -1e6)))
    absent = [t for t, (_, box) in enumerate(clip.frames()) if box is None]
    assert 0.65 <= len(absent) / FRAMES <= 0.85
    for t in absent:
        assert np.array_equal(clip.frame(t)[0], gone.frame(t)[0])


def test_boxes_are_around_the_pixels_that_change_with_the_objects_colour(clip):
    def painted(value):
        cutout = clip.target.cutout.copy()
        cutout[..., :3] = value
        look = replace(clip.target.look, gains=(1, 1, 1), contrast=1.0)
        own = replace(clip.target, cutout=cutout, look=look)
        return replace(clip, target=own, brightness=np.ones(FRAMES))

    white, black = painted(255), painted(0)
    shown = [t for t in range(FRAMES) if clip.frame(t)[1]]
    assert shown
    for t in shown:
        opacity = (white.frame(t)[0].astype(float) - black.frame(t)[0]).mean(-1) / 255
        rows, columns = (np.flatnonzero((opacity > 0.5).any(axis)) for axis in (1, 0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.subtract(clip.frame(t)[1], box)).max() <= 1  # sensor noise at the edge


def test_things_lie_still_on_the_ground():
    rng = np.random.default_rng(2)
    flight = draw_flight(30, SIZE, (250, 416), rng)
    place = np.array([[200.0, 100.0]])
    for t in (0, 15, 29):
        left, top, right, bottom = flight.window(t)
        assert 0 <= left < right <= 416 + 1e-6
        assert 0 <= top < bottom <= 250 + 1e-6
        x, y = flight.on_frame(place, t)[0]
        assert x / SIZE[1] == pytest.approx((200 - left) / (right - left))
        assert y / SIZE[0] == pytest.approx((100 - top) / (bottom - top), rel=1e-3)


def test_places_are_passed_for_the_share_that_is_asked():
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        flight = draw_flight(120, SIZE, (250, 416), rng)
        place = draw_place(flight, 12, 0.25, rng, (250, 416))
        if place is None:
            continue
        at = np.stack([flight.on_frame(np.array([place]), t)[0] for t in range(120)])
        reach = 6 * flight.zooms
        inside = (at > -reach[:, None]).all(1)
        inside &= (at[:, 0] < SIZE[1] + reach) & (at[:, 1] < SIZE[0] + reach)
        found.append(inside.mean())
        assert 1 <= (np.diff(np.pad(inside.astype(int), 1)) == 1).sum() <= 3
    assert len(found) >= 8
    assert all(0.18 <= share <= 0.32 for share in found)


def test_an_impossible_share_is_refused():
    rng = np.random.default_rng(0)
    cut = draw_solid(make_object("Ball", rng), Pose(0, 45), 40)
    plan = ClipPlan(2, SIZE, share=0.25)
    with pytest.raises(InputError, match="no flight over 160 x 100 pixels"):
        draw_clip(plan, np.zeros((100, 160, 3), np.uint8), cut, [], rng)


def test_intervals_are_runs_of_boxes():
    box = (1, 2, 3, 4)
    found = intervals([None, box, box, None, box])
    assert [[b["frame"] for b in run["bboxes"]] for run in found] == [[1, 2], [4]]
    assert found[1]["bboxes"][0] == {"frame": 4, "x1": 1, "y1": 2, "x2": 3, "y2": 4}
    assert intervals([None, None]) == []


def test_a_cube_seen_straight_on_is_a_square_with_its_texture_upright():
    texture = np.zeros((32, 32, 3), np.float32)
    texture[:, :16, 0] = 255  # red on the left
    texture[:8, :, 1] = 255  # and green above
    plain = np.full((32, 32, 3), 128, np.float32)
    faces = block((1, 1, 1), [texture, plain, plain, plain], plain)
    image = draw_solid(faces, Pose(0, 0, ambient=1.0), 64)
    assert image.shape == (64, 64, 4)
    assert (image[..., 3] == 255).mean() > 0.97
    assert image[40, 10, 0] > 200
    assert image[40, 54, 0] < 30
    assert image[4, 54, 1] > 200
    assert image[40, 54, 1] < 30


def test_a_box_seen_from_its_side_shows_that_side():
    sides = [np.full((8, 8, 3), value, np.float32) for value in (0, 80, 160, 240)]
    faces = block((1, 1, 1), sides, sides[0])
    for yaw, value in ((0, 0), (90, 80), (180, 160), (270, 240)):
        image = draw_solid(faces, Pose(yaw, 0, ambient=1.0), 40)
        assert abs(int(image[20, 20, 0]) - value) <= 0.15 * value + 1, yaw


def test_individuals_differ_in_colour_or_shape():
    rng = np.random.default_rng
    views = {}
    for kind in KINDS:
        for number in range(3):
            solid = make_object(kind, rng([1, number, KINDS.index(kind)]))
            image = Image.fromarray(draw_solid(solid, Pose(30, 40), 48)).resize((16, 16))
            views[f"{kind}_{number}"] = np.asarray(image, float)
    assert len(views) == 24
    names = sorted(views)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert np.abs(views[first] - views[second]).mean() > 8, (first, second)


def test_films_refuse_what_their_format_lacks(tmp_path):
    with pytest.raises(DataError, match="expected even sides"):
        write_film(tmp_path / "a.mp4", [], (97, 160), 10)
    with pytest.raises(DataError, match="no frame"):
        write_film(tmp_path / "a.mp4", [], SIZE, 10)
    with pytest.raises(DataError, match="expected uint8"):
        write_film(tmp_path / "a.mp4", [np.zeros((96, 96, 3), np.uint8)], SIZE, 10)
    assert list(tmp_path.iterdir()) == []


def test_product_clips_show_others_only_of_products_that_no_clip_is_of(tmp_path):
    rng = np.random.default_rng(0)
    cutouts = {}
    for name, kind in (("can", "Barrel"), ("bag", "Backpack"), ("tin", "Parcel")):
        cutouts[name] = tmp_path / f"{name}.png"
        Image.fromarray(draw_solid(make_object(kind, rng), Pose(0, 30), 90)).save(cutouts[name])
    back = tmp_path / "back.jpg"
    Image.fromarray(ground((300, 480), rng)).save(back)
    options = {"videos": 3, "frames": 24, "size": SIZE, "object_px": (14, 40)}
    write_product_clips(tmp_path / "set", cutouts, [back], classes=["can", "bag"], **options)
    index = read_aeroeyes(tmp_path / "set", verify=True)
    assert [one.name for one in index.classes] == ["bag_0", "bag_1", "can_0"]
    assert [one.category for one in index.classes] == ["bag", "bag", "can"]
    with pytest.raises(InputError, match="known classes"):
        write_product_clips(tmp_path / "no", cutouts, [back], classes=["cup"], **options)


def test_a_set_that_goes_on_shares_no_individual(tmp_path):
    write_drone_set(tmp_path, **{**OPTIONS, "videos": 1}, seed=3, first=8)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["Crate_1"]
