"""A whole search: sources, files, pictures, and going on after a stop. A colour is looked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.errors import DataError, InputError
from mlkit_core.report.video import VideoWriter
from mlkit_core.types import BoxPrediction, ModelOutput
from mlkit_refdet.features import SupportFeatures
from mlkit_refdet.head.decoding import in_original
from mlkit_refdet.references.enrolling import Finder
from mlkit_refdet.references.reference_set import reference_set
from mlkit_refdet.search.config import SearchOptions, TrackOptions
from mlkit_refdet.search.drawing import Drawn, boxed, plain
from mlkit_refdet.search.finding import Request, find
from mlkit_refdet.search.searching import Searcher
from mlkit_refdet.search.sources import open_source
from mlkit_refdet.search.submission import submission
from mlkit_refdet.search.temporal import Detection, Track

RED = (255, 0, 0)


def red_square(frames):
    """A stand-in for a model: finds pure red."""
    found = []
    for frame in frames:
        red = (frame[..., 0] > 180) & (frame[..., 1] < 90) & (frame[..., 2] < 90)
        rows, columns = np.nonzero(red.any(1))[0], np.nonzero(red.any(0))[0]
        if len(rows) < 4:
            found.append([])
            continue
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found.append([Detection(box, 0.9, 0)])
    return found


def picture(number):
    """A red square is seen in frames 5 to 14."""
    frame = np.full((96, 128, 3), 90, np.uint8)
    if 5 <= number < 15:
        frame[30:60, 20 + 3 * number : 50 + 3 * number] = RED
    return frame


@pytest.fixture
def film(tmp_path):
    """Twenty frames, ten a second."""
    with VideoWriter(tmp_path / "film.mp4", 10) as writer:
        for number in range(20):
            writer.write(picture(number))
    return tmp_path / "film.mp4"


def request(source, out, **options):
    opened = open_source(str(source)) if isinstance(source, str | Path) else source
    return Request(opened, out, names=["square"], **options)


def test_a_video_becomes_intervals_a_submission_and_pictures(film, tmp_path):
    photos = {"square": [np.full((40, 60, 3), 200, np.uint8)]}
    found = find(request(film, tmp_path / "out", photos=photos), red_square)
    (interval,) = found["objects"][0]["intervals"]
    assert (interval["first"], interval["last"], interval["bridged"]) == (5, 14, 0)
    assert interval["seconds"] == [0.5, 1.4]
    x1, y1, x2, y2 = interval["boxes"]["10"]
    assert (x1, y1, x2, y2) == pytest.approx((50, 30, 80, 60), abs=2)
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == found
    (row,) = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert row["video_id"] == "film"
    assert [b["frame"] for b in row["detections"][0]["bboxes"]] == list(range(5, 15))


def test_the_overlay_plays_in_a_browser_and_shows_the_box(film, tmp_path):
    find(request(film, tmp_path / "out"), red_square)
    path = tmp_path / "out" / "overlay.mp4"
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(shown) == 20
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # the index in front
    orange = np.array([230, 159, 0])  # the first object's colour; its hue is halved by 4:2:0
    edge = shown[10][45, 48:53].astype(int)
    assert np.abs(edge - orange).sum(-1).min() < 150
    assert np.abs(shown[2].astype(int) - 90).max() < 12  # nothing is drawn where nothing is


def test_the_sheet_shows_the_photos_before_the_best_hits(film, tmp_path):
    blue = np.zeros((40, 60, 3), np.uint8)
    blue[..., 2] = 255
    find(request(film, tmp_path / "out", photos={"square": [blue]}), red_square)
    with Image.open(tmp_path / "out" / "contact.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    is_blue = (pixels[..., 2] > 200) & (pixels[..., :2].max(-1) < 60)
    is_red = (pixels[..., 0] > 180) & (pixels[..., 1:].max(-1) < 90)
    assert is_blue.sum() > 5000
    assert is_red.sum() > 5000
    assert np.nonzero(is_blue)[1].max() < np.nonzero(is_red)[1].min()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_search_that_was_stopped_goes_on_and_ends_alike(film, tmp_path, batch):
    options = SearchOptions(batch=batch)
    whole = find(request(film, tmp_path / "one", options=options, pictures=False), red_square)
    asked, later = [], []

    def stops(frames):
        if len(asked) >= 8:
            raise KeyboardInterrupt
        asked.extend(frames)
        return red_square(frames)

    def counts(frames):
        later.extend(frames)
        return red_square(frames)

    two = request(film, tmp_path / "two", options=options, pictures=False)
    with pytest.raises(KeyboardInterrupt):
        find(two, stops)
    journal = tmp_path / "two" / "journal.jsonl"
    journal.write_text(journal.read_text() + '{"frame": 8, "fo')  # a line cut short
    assert find(two, counts) == whole
    assert len(asked) + len(later) == 20
    rest = journal.read_text().splitlines()[1:]
    assert [json.loads(line)["frame"] for line in rest] == list(range(20))


def test_a_search_that_was_killed_goes_on_and_ends_alike(film, tmp_path):
    program = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_search import red_square, request
        from mlkit_refdet.search.finding import find
        seen = []
        def dies(frames):
            seen.extend(frames)
            if len(seen) > 9:
                os.kill(os.getpid(), 9)
            return red_square(frames)
        find(request({str(film)!r}, Path({str(tmp_path / "two")!r}), pictures=False), dies)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    whole = find(request(film, tmp_path / "one"), red_square)
    assert find(request(film, tmp_path / "two"), red_square) == whole
    for name in ("detections.json", "submission.json", "contact.png", "overlay.mp4"):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_other_thresholds_of_tracks_need_no_new_search(film, tmp_path):
    find(request(film, tmp_path / "out", pictures=False), red_square)

    def never(frames):
        raise AssertionError(f"{len(frames)} frames are searched again")

    strict = request(film, tmp_path / "out", tracks=TrackOptions(high=0.95), pictures=False)
    assert find(strict, never)["objects"][0]["intervals"] == []


def test_a_folder_of_another_search_is_refused_and_can_be_overwritten(film, tmp_path):
    out = tmp_path / "out"
    find(request(film, out, about={"references": "a"}, pictures=False), red_square)
    other = {"about": {"references": "b"}, "options": SearchOptions(conf=0.2), "pictures": False}
    with pytest.raises(InputError, match="holds a search with other conf, references"):
        find(request(film, out, **other), red_square)
    later = []
    again = request(film, out, overwrite=True, **other)
    find(again, lambda frames: later.extend(frames) or red_square(frames))
    assert len(later) == 20


def test_a_video_that_was_replaced_is_another_search(film, tmp_path):
    find(request(film, tmp_path / "out", pictures=False), red_square)
    os.utime(film, (1, 1))
    with pytest.raises(InputError, match="holds a search with other file"):
        find(request(film, tmp_path / "out", pictures=False), red_square)


def test_a_damaged_journal_is_one_message(film, tmp_path):
    find(request(film, tmp_path / "out", pictures=False), red_square)
    journal = tmp_path / "out" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:3], "{}", *lines[4:], ""]))
    with pytest.raises(DataError, match=r"journal\.jsonl:4: no line of a journal"):
        find(request(film, tmp_path / "out", pictures=False), red_square)


def test_of_a_video_that_breaks_off_what_lies_before_is_written(film, tmp_path):
    content = film.read_bytes()
    place = content.index(b"mdat")
    cut = tmp_path / "cut.mp4"
    size = int.from_bytes(content[place - 4 : place], "big")
    broken = bytearray(content)
    broken[place + size // 2 : place + size - 40] = b"\x00" * (size // 2 - 40)
    cut.write_bytes(broken)
    with pytest.raises(DataError, match=r"cut\.mp4: cannot be read after frame"):
        find(request(cut, tmp_path / "out"), red_square)
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert written["complete"] is False
    assert 0 < written["frames_searched"] < 20
    assert (tmp_path / "out" / "overlay.mp4").is_file()


def test_every_second_frame_is_searched_and_those_between_are_bridged(film, tmp_path):
    asked = []
    options = SearchOptions(stride=2)
    found = find(
        request(film, tmp_path / "out", options=options, pictures=False),
        lambda frames: asked.extend(frames) or red_square(frames),
    )
    assert len(asked) == found["frames_searched"] == 10
    (interval,) = found["objects"][0]["intervals"]
    assert (interval["first"], interval["last"], interval["bridged"]) == (6, 14, 4)


def test_a_stream_is_recorded_until_it_is_stopped(film, tmp_path):
    asked = []

    def stops(frames):
        asked.extend(frames)
        if len(asked) == 13:
            raise KeyboardInterrupt
        return red_square(frames)

    source = open_source(str(film), stream=True)
    assert (source.kind, source.frames) == ("stream", None)
    found = find(request(source, tmp_path / "out"), stops)
    (interval,) = found["objects"][0]["intervals"]
    assert (interval["first"], interval["last"]) == (5, 11)
    with av.open(str(tmp_path / "out" / "recording.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 13
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 13
    with pytest.raises(InputError, match="holds an earlier search"):
        find(request(source, tmp_path / "out"), red_square)


def test_numbered_images_of_one_size_are_a_video_and_others_are_not(tmp_path):
    for folder, names in (("frames", ["a1", "a2", "a10"]), ("photos", ["cat", "dog"])):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            Image.fromarray(picture(5 + number)).save(tmp_path / folder / f"{name}.png")
    video, photos = (open_source(str(tmp_path / name)) for name in ("frames", "photos"))
    assert (video.kind, photos.kind) == ("video", "images")
    assert [file.stem for file in video.files] == ["a1", "a2", "a10"]
    assert video.name == tmp_path.name  # every video's folder is called frames
    assert open_source(str(tmp_path / "photos"), folder="video").kind == "video"
    Image.new("RGB", (50, 50)).save(tmp_path / "frames" / "a11.png")
    assert open_source(str(tmp_path / "frames")).kind == "images"
    with pytest.raises(DataError, match="holds images of 2 sizes"):
        open_source(str(tmp_path / "frames"), folder="video")


def test_unrelated_images_are_found_in_one_by_one(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(["none", "square <b>", "other"]):
        Image.fromarray(picture(4 + number)).save(tmp_path / "photos" / f"{name}.png")
    found = find(request(tmp_path / "photos", tmp_path / "out"), red_square)
    intervals = found["objects"][0]["intervals"]
    assert [row["image"] for row in intervals] == ["other.png", "square <b>.png"]
    drawn = sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())
    assert drawn == ["00001-other.png", "00002-square_b_.png"]
    assert not (tmp_path / "out" / "overlay.mp4").exists()


def test_a_video_without_the_object_submits_an_empty_list(film, tmp_path):
    found = find(request(film, tmp_path / "out"), lambda frames: [[] for _ in frames])
    assert found["objects"][0]["intervals"] == []
    rows = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert rows == [{"video_id": "film", "detections": []}]


def test_a_submission_has_one_whole_box_a_frame_and_an_interval_for_each_run():
    low = Track(0, {f: (1.4, 2, 9.6, 8) for f in range(3)}, {0: 0.5})
    high = Track(0, {2: (20.2, 20, 20.4, 30), 3: (20, 20, 30, 30), 7: (5, 5, 6, 6)}, {2: 0.9})
    (row,) = submission("v", ["bag"], [high, low])
    assert row == {
        "video_id": "v",
        "detections": [
            {
                "bboxes": [
                    {"frame": 0, "x1": 1, "y1": 2, "x2": 10, "y2": 8},
                    {"frame": 1, "x1": 1, "y1": 2, "x2": 10, "y2": 8},
                    {"frame": 2, "x1": 20, "y1": 20, "x2": 21, "y2": 30},
                    {"frame": 3, "x1": 20, "y1": 20, "x2": 30, "y2": 30},
                ]
            },
            {"bboxes": [{"frame": 7, "x1": 5, "y1": 5, "x2": 6, "y2": 6}]},
        ],
    }


def test_of_several_objects_each_has_its_own_entry():
    tracks = [Track(1, {4: (0.0, 0.0, 9.0, 9.0)}, {4: 0.9})]
    rows = submission("v", ["bag", "cup"], tracks)
    assert [(row["object"], len(row["detections"])) for row in rows] == [("bag", 0), ("cup", 1)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("samples/Backpack_1/drone_video.mp4", "Backpack_1"),
        ("samples/Backpack_1/frames", "Backpack_1"),
        ("a/b/harbour.mov", "harbour"),
    ],
)
def test_a_video_is_named_by_its_file_or_by_its_folder_where_all_are_named_alike(path, name):
    from mlkit_refdet.search.sources import name_of

    assert name_of(path) == name


def test_names_of_any_letters_are_drawn_on_one_line():
    frame = np.zeros((60, 80, 3), np.uint8)
    name = "Сумка 袋\n‮<b>" + "x" * 90
    assert "\n" not in plain(name)
    assert len(plain(name)) == 40
    drawn = boxed(frame, [Drawn(0, (-5.0, -5.0, 200.0, 200.0), name)])
    assert drawn.shape == frame.shape
    assert drawn.any()
    assert not frame.any()


def test_a_video_of_odd_sides_is_written_whole(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", 10) as writer:
        for _ in range(3):
            writer.write(np.full((33, 47, 3), 120, np.uint8))
    with av.open(str(tmp_path / "odd.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(34, 48, 3)] * 3
    assert np.abs(frames[0].astype(int) - 120).max() <= 2


@pytest.mark.parametrize("name", ["none.mp4", "none"])
def test_a_missing_source_is_one_message(tmp_path, name):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(str(tmp_path / name))


def test_a_file_that_is_no_video_is_one_message(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.mp4"):
        open_source(str(tmp_path / "a.mp4"))


def test_a_camera_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(DataError, match=r"video97.*cannot be opened"):
        find(request("97", tmp_path / "out"), red_square)


class RedModel(torch.nn.Module):
    """A model whose head gives the red part of what it is shown, in input pixels."""

    def __init__(self):
        super().__init__()
        self.encoders = torch.nn.ModuleDict({"support": torch.nn.Linear(1, 1)})
        self.head, self.sizes = SimpleNamespace(decode=self.decode), []

    def forward(self, batch):
        self.sizes.append(len(batch.inputs["query"]))
        assert batch.features["support"].valid.shape == (1, 2)
        red, green, _ = batch.inputs["query"].unbind(1)
        return ModelOutput(head=(red > 0.7) & (green < 0.35), scope={})

    def decode(self, output, meta):
        return [self.found(*row) for row in zip(output, meta, strict=True)]

    def found(self, red, meta):
        rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
        if not len(rows):
            return BoxPrediction(
                torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
            )
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        box = in_original(box[None], meta)
        score = 0.5 + red.float().mean()[None] / 2  # larger is surer
        return BoxPrediction(box, score, torch.zeros(1, dtype=torch.long))


def red_searcher(**options):
    model = RedModel()
    features = SupportFeatures(valid=torch.ones(1, 2, dtype=torch.bool), vector=torch.ones(2, 1))
    known = reference_set(features, ["square"], model.encoders["support"])
    data = SimpleNamespace(loader=SimpleNamespace(side=64, pad=(114, 114, 114)))
    finder = Finder(model, data, "support", torch.device("cpu"), {})
    return Searcher(finder, known, SearchOptions(**options)), model


@pytest.mark.parametrize("tiles", ["auto", 64, 96])
def test_small_things_are_found_at_their_exact_place_by_tiles(tiles):
    search, model = red_searcher(tiles=tiles, batch=4)
    rng = np.random.default_rng(0)
    frames, true = [], []
    for _ in range(30):
        x, y, w, h = (int(v) for v in rng.integers([0, 0, 4, 4], [180, 120, 12, 12]))
        frame = np.full((140, 200, 3), 90, np.uint8)
        frame[y : y + h, x : x + w] = RED
        frames.append(frame)
        true.append((x, y, x + w, y + h))
    error = 0 if tiles != 96 else 1.6  # 96 px of the frame are shrunk to 64
    for found, box in zip(search(frames), true, strict=True):
        best = max(found, key=lambda d: d.score)
        assert best.box == pytest.approx(box, abs=error + 1e-4)
    assert max(model.sizes) == 4


def test_without_tiles_small_things_are_found_less_exactly_and_large_frames_are_seen_once():
    search, model = red_searcher(tiles="off", batch=4)
    frame = np.full((140, 200, 3), 90, np.uint8)
    frame[33:53, 101:131] = RED
    ((found,),) = search([frame])
    assert found.box == pytest.approx((101, 33, 131, 53), abs=3.2)
    assert model.sizes == [1]
