"""`mlkit dvis run` as a person types it, on a model whose tracks are known beforehand."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from mlkit_cli.main import main
from mlkit_core.errors import InputError
from mlkit_dvis.drawing.shapes import encode, shape_of
from mlkit_dvis.pipeline import LiveFrame, LiveTrack
from mlkit_dvis.results import InstanceTrack, QueryTable, VideoResult
from mlkit_dvis.video import VideoWriter, read_frames

CLASSES = ("fish", "crab", "weed")
SIZE = (67, 93)  # odd on purpose
FRAMES, FPS = 12, 20.0


def object_mask(index, top=20):
    mask = np.zeros(SIZE, bool)
    mask[top : top + 14, 5 + 4 * index : 21 + 4 * index] = True
    return mask


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "reef.mp4"
    with VideoWriter(path, FPS, SIZE) as writer:
        for index in range(FRAMES):
            writer.write(np.full((*SIZE, 3), 40 + 10 * index, np.uint8))
    return path


def result_of(frames, layers, size):
    def rles(top):
        cut = (object_mask(t, top)[: size[0], : size[1]] for t in range(frames))
        whole = (np.pad(m, ((0, size[0] - m.shape[0]), (0, size[1] - m.shape[1]))) for m in cut)
        return tuple(encode(shape_of(mask), size) for mask in whole)

    weights = tuple((np.arange(frames) + 1) / np.arange(1, frames + 1).sum())
    one, two = rles(20), rles(45)
    tracks = (
        InstanceTrack(0, 0.9, one, 3, weights, (0,) * frames),
        InstanceTrack(1, 0.6, one, 3, weights, (0,) * frames),
        InstanceTrack(2, 0.5, two, 8, weights, (1,) * frames),
        InstanceTrack(1, 0.1, two, 8, weights, (1,) * frames),
    )
    maps = np.zeros((4, 9, 12), np.float32)
    for query in range(4):
        maps[query, 2 * query, 3 * query] = 1
    table = QueryTable(
        scores=np.tile(np.float32([0.9, 0.5, 0.4, 0.2]), (frames, 1)),
        labels=np.tile([0, 2, 1, 1], (frames, 1)),
        no_object=np.tile(np.float32([0.1, 0.4, 0.5, 0.7]), (frames, 1)),
        attention=lambda frame, layer: maps,
        layers=tuple(layers),
    )
    return VideoResult(tracks, size, frames, (67 / 72, 93 / 96), table if layers else None)


@pytest.fixture
def model(monkeypatch):
    """Stand in for the model: its tracks are squares that move to the right."""
    calls = SimpleNamespace(options={}, load=None, stop_at=None)

    def load_tracker(weights, *, checkpoint="best", device="auto"):
        calls.load = (weights, checkpoint, device)
        if not weights.is_dir():
            raise InputError(f"{weights}: not the folder of a run", hint="convert")
        return SimpleNamespace(classes=CLASSES, provenance={"checkpoint": "step-7"})

    def track_video(loaded, source, *, stride=1, on_window=None, **options):
        calls.options = {"stride": stride, **options}
        frames = list(read_frames(source, stride=stride))
        for done in range(1, len(frames) + 1):
            on_window(done, len(frames))
        return result_of(len(frames), options.get("attention", ()), frames[0].shape[:2])

    def track_live(loaded, frames, *, score=0.0):
        for index, frame in enumerate(frames):
            if index == calls.stop_at:
                raise KeyboardInterrupt
            rows = (
                LiveTrack(0, 0, 0.9, object_mask(index)),
                LiveTrack(1, 2, 0.2, object_mask(index, 45)),
            )
            yield LiveFrame(index, frame, tuple(row for row in rows if row.score >= score))

    monkeypatch.setattr("mlkit_dvis.pipeline.load_tracker", load_tracker)
    monkeypatch.setattr("mlkit_dvis.drawing.running.track_video", track_video)
    monkeypatch.setattr("mlkit_dvis.drawing.running.track_live", track_live)
    return calls


@pytest.fixture
def say(model, tmp_path, capsys):
    (tmp_path / "run").mkdir()

    def call(source, *arguments, out="out"):
        given = ["dvis", "run", str(source), "--weights", str(tmp_path / "run")]
        capsys.readouterr()
        try:
            code = main([*given, "--out", str(tmp_path / out), *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def facts(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = (stream.codec_context.name, stream.codec_context.pix_fmt)
        rate = float(stream.average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return codec, rate, frames


def test_a_video_becomes_tracks_an_overlay_and_a_sheet(say, video, tmp_path):
    code, out, err = say(video)
    assert code == 0, err
    names = ["tracks.json", "overlay.mp4", "contact_sheet.png"]
    assert out.split() == [str(tmp_path / "out" / name) for name in names]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    assert "2 objects: fish #3 0.90, weed #8 0.50" in err
    assert "tracking 12 frames" in err
    assert "fps" in err
    said = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert said["model"]["checkpoint"] == "step-7"
    assert (said["video"]["fps"], said["video"]["frames"]) == (FPS, FRAMES)
    assert [row["category_id"] for row in said["results"]] == [1, 2, 3]
    assert [track["id"] for track in said["tracks"]] == [3, 8]
    assert "attention" not in said


def test_the_overlay_plays_in_browsers_and_shows_each_object_once(say, video, tmp_path):
    assert say(video)[0] == 0
    path = tmp_path / "out" / "overlay.mp4"
    codec, rate, frames = facts(path)
    assert codec == ("h264", "yuv420p")
    assert rate == FPS
    assert len(frames) == FRAMES
    assert frames[0].shape == (SIZE[0] + 1, SIZE[1] + 1, 3)  # 4:2:0 has no odd sizes
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    inside, outside = frames[2][25, 20].astype(int), frames[2][5, 85].astype(int)
    assert np.ptp(outside) < 12  # grey, as the video is
    assert inside[0] - inside[2] > 40  # orange, the first colour


def test_class_and_score_choose_what_is_reported(say, video, tmp_path):
    code, out, _ = say(video, "--classes", "crab,weed", "--score", "0.55", "--json", "--no-video")
    said = json.loads(out)
    assert code == 0
    assert said["objects"] == [{"id": 3, "class": "crab", "score": 0.6}]
    assert said["frames"] == FRAMES
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_nothing_to_report_is_no_error(say, video, tmp_path):
    code, _, err = say(video, "--score", "0.95")
    assert code == 0
    assert "0 objects: --score lowers the threshold" in err
    assert len(facts(tmp_path / "out" / "overlay.mp4")[2]) == FRAMES


def test_a_stride_takes_fewer_frames_and_keeps_the_pace(say, video, tmp_path, model):
    assert say(video, "--stride", 3, "--max-tracks", 7, "--device", "cpu")[0] == 0
    assert (model.options["stride"], model.options["max_tracks"]) == (3, 7)
    assert model.load == (tmp_path / "run", "best", "cpu")
    _, rate, frames = facts(tmp_path / "out" / "overlay.mp4")
    assert len(frames) == 4
    assert rate == pytest.approx(FPS / 3, rel=1e-3)
    said = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert said["video"]["stride"] == 3
    assert said["tracks"][0]["last_time_s"] == 0.45  # frame 9 of 20 a second


def test_attention_adds_heat_maps_and_the_table_of_unmatched_queries(say, video, tmp_path, model):
    more = ("--attention", "--layers", "-1,-2", "--queries", "all", "--unmatched-top", 1)
    code, out, err = say(video, *more)
    assert code == 0, err
    assert model.options["attention"] == (-1, -2)
    folder = tmp_path / "out"
    assert set(out.split()) == {str(p) for p in folder.rglob("*") if p.is_file()}
    names = {path.name for path in (folder / "attention").iterdir()}
    for track in ("track3-fish", "track8-weed"):
        for layer in ("layer-1", "layer-2"):
            assert {f"{track}_{layer}.mp4", f"{track}_{layer}.png"} <= names
    assert "queries_frame00001_layer-1.png" in names
    assert "zero outside the mask" in (folder / "attention" / "README.txt").read_text()
    assert (
        "zero outside the mask"
        in json.loads((folder / "tracks.json").read_text())["attention"]["note"]
    )
    assert len(facts(folder / "attention" / "track3-fish_layer-1.mp4")[2]) == FRAMES
    lines = list(csv.DictReader((folder / "unmatched.csv").read_text().splitlines()))
    assert len(lines) == FRAMES
    assert {line["query"] for line in lines} == {"2"}  # 0 and 1 are followed, 3 scores less
    assert (folder / "unmatched.png").is_file()


def test_a_folder_of_frames_is_a_video_of_its_own_pace(say, tmp_path, video):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, frame in enumerate(read_frames(video)):
        Image.fromarray(frame[:66, :92]).save(frames / f"{index}.png")
    assert say(frames, "--fps", 5)[0] == 0
    _, rate, shown = facts(tmp_path / "out" / "overlay.mp4")
    assert (rate, len(shown), shown[0].shape) == (5, FRAMES, (66, 92, 3))
    assert json.loads((tmp_path / "out" / "tracks.json").read_text())["video"]["fps"] is None


def test_an_image_gives_a_picture(say, tmp_path):
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(tmp_path / "one.png")
    code, out, err = say(tmp_path / "one.png", "--attention")
    assert code == 0, err
    with Image.open(tmp_path / "out" / "overlay.png") as picture:
        assert picture.size == (SIZE[1], SIZE[0])
    assert "overlay.mp4" not in out
    assert (tmp_path / "out" / "attention" / "track3-fish_layer-1.png").is_file()


def test_online_follows_frame_by_frame(say, video, tmp_path):
    code, out, err = say(video, "--online", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["objects"] == [{"id": 0, "class": "fish", "score": 0.9}]
    assert "following 12 frames" in err
    codec, rate, frames = facts(tmp_path / "out" / "overlay.mp4")
    assert (codec, rate, len(frames)) == (("h264", "yuv420p"), FPS, FRAMES)
    tracks = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert tracks["video"]["frames"] == FRAMES
    assert len(tracks["results"][0]["segmentations"]) == FRAMES


def test_online_takes_an_address_with_a_stride(say, video, tmp_path):
    code, _, err = say(video.as_uri(), "--online", "--stride", 5)
    assert code == 0, err
    _, rate, frames = facts(tmp_path / "out" / "overlay.mp4")
    assert (rate, len(frames)) == (FPS / 5, 3)


def test_ctrl_c_is_how_an_endless_stream_ends(say, video, tmp_path, model):
    model.stop_at = 4
    code, out, err = say(video.as_uri(), "--online")
    assert code == 0, err
    assert "holds the 4 frames before" in err
    assert "tracks.json" in out
    assert len(facts(tmp_path / "out" / "overlay.mp4")[2]) == 4


def test_ctrl_c_before_the_end_of_a_file_keeps_what_came_and_fails(say, video, tmp_path, model):
    model.stop_at = 4
    code, _, err = say(video, "--online")
    assert code == 1
    assert "holds the 4 frames before" in err
    assert len(facts(tmp_path / "out" / "overlay.mp4")[2]) == 4
    assert json.loads((tmp_path / "out" / "tracks.json").read_text())["video"]["frames"] == 4


def test_ctrl_c_before_the_first_frame_leaves_no_file(say, video, tmp_path, model):
    model.stop_at = 0
    assert say(video.as_uri(), "--online")[0] == 1
    assert not any((tmp_path / "out").iterdir())


def test_ctrl_c_while_drawing_leaves_what_is_finished_and_says_so(
    say, video, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlkit_dvis.drawing.sheet.ContactSheet.draw", stop)
    code, _, err = say(video)
    assert code == 1
    assert "is finished: tracks.json, overlay.mp4" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["overlay.mp4", "tracks.json"]


def test_a_folder_that_holds_something_is_refused_and_overwritten_when_asked(say, video, tmp_path):
    assert say(video, "--attention")[0] == 0
    (tmp_path / "out" / "mine.txt").write_text("keep")
    code, _, err = say(video)
    assert code == 2
    assert "exists and is not empty" in err
    assert "--overwrite" in err
    assert say(video, "--overwrite")[0] == 0
    assert not (tmp_path / "out" / "attention").exists()
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
    assert say(video, out="out/mine.txt")[0] == 2


@pytest.mark.parametrize(
    ("source", "arguments", "said", "hint"),
    [
        ("none.mp4", (), "none.mp4: no such file", "a video, a folder"),
        ("run", (), "holds no image", "images end in"),
        ("text.mp4", (), "not a readable video", "give a video file"),
        ("rtsp://camera/1", (), "is a stream", "--online"),
        ("text.mp4", ("--attention", "--online"), "whole videos", "leave out --online"),
        ("text.mp4", ("--attention", "--layers", "last"), "expected numbers", "-1 is the last"),
        ("even.mp4", ("--classes", "fihs"), "no class 'fihs'", "did you mean 'fish'?"),
        ("text.mp4", ("--stride", "0"), "--stride", ""),
    ],
)
def test_wrong_input_is_told_what_to_do(say, tmp_path, source, arguments, said, hint):
    (tmp_path / "text.mp4").write_text("not a video")
    with VideoWriter(tmp_path / "even.mp4", FPS, (16, 16)) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    where = source if "://" in source else tmp_path / source
    code, out, err = say(where, *arguments)
    assert code == 2, err
    assert out == ""
    assert said in err
    assert hint in err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_inside_a_run_may_be_named(say, video, tmp_path, model):
    inside = tmp_path / "other" / "checkpoints" / "step-12"
    inside.mkdir(parents=True)
    assert say(video, "--weights", inside)[0] == 0
    assert model.load == (tmp_path / "other", "step-12", "auto")
    assert say(video, "--weights", inside / "model.safetensors", out="two")[0] == 0
    assert model.load == (tmp_path / "other", "step-12", "auto")
    assert say(video, "--weights", tmp_path / "nowhere", out="three")[0] == 2
