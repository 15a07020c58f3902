"""Streams: frames as they come, and what is kept of their objects."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from mlkit_core.errors import InputError
from mlkit_dvis.drawing import Footage, LiveRecord, is_stream, open_stream, write_record
from mlkit_dvis.drawing.shapes import area, decode
from mlkit_dvis.pipeline import LiveFrame, LiveTrack
from mlkit_dvis.video import VideoWriter

CLASSES = ("fish", "crab")
SIZE = (36, 50)


def square(left):
    mask = np.zeros(SIZE, bool)
    mask[4:10, left : left + 6] = True
    return mask


def frame_of(index, *rows):
    return LiveFrame(index, np.full((*SIZE, 3), 90, np.uint8), rows)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 12.5, (48, 64)) as writer:
        for index in range(7):
            writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    return path


def test_objects_of_a_stream_are_drawn_and_kept():
    with LiveRecord({0, 1}, 0.3, CLASSES) as record:
        first = record.add(frame_of(0, LiveTrack(4, 0, 0.6, square(10))), "")
        record.add(frame_of(1), "")
        record.add(
            frame_of(2, LiveTrack(4, 1, 0.8, square(20)), LiveTrack(6, 0, 0.9, square(1))), ""
        )
        assert record.frames == 3
        rows = list(record.rows())
    assert (first[7, 13] != 90).any()
    assert (first[30, 2] == 90).all()
    assert [(row.id, row.name, row.track.score) for row in rows] == [
        (6, "fish", 0.9),
        (4, "crab", 0.8),  # class and score as they were known last
    ]
    rles = rows[1].track.rles
    assert [area(rle) for rle in rles] == [36, 0, 36]
    assert rles[1] is None
    assert decode(rles[2]).box_xyxy == (20, 4, 26, 10)


def test_score_class_and_number_limit_what_is_drawn_and_kept():
    rows = [LiveTrack(n, n % 2, 0.9 - n / 10, square(7 * n)) for n in range(6)]
    empty = LiveTrack(9, 0, 0.95, np.zeros(SIZE, bool))
    with LiveRecord({0}, 0.45, CLASSES) as record:
        record.add(frame_of(0, empty, *rows), "")
        assert [number for number, _, _ in record.objects()] == [0, 2, 4]
    with LiveRecord({0}, 0.45, CLASSES) as record:
        record.add(frame_of(0, *rows), "", limit=2)
        assert [number for number, _, _ in record.objects()] == [0, 2]


def test_an_object_keeps_its_colour_from_frame_to_frame():
    with LiveRecord({0, 1}, 0.0, CLASSES) as record:
        shown = []
        for index in range(4):
            others = [LiveTrack(100 + index, 0, 0.9, square(30))]
            picture = record.add(frame_of(index, *others, LiveTrack(3, 0, 0.5, square(10))), "")
            shown.append(picture[7, 12].tolist())
        assert shown == [shown[0]] * 4
        colours = {row.id: row.colour for row in record.rows()}
    assert len(set(colours.values())) == 5


def test_the_record_becomes_a_file_of_the_same_form(tmp_path):
    path = tmp_path / "tracks.json"
    with LiveRecord({0, 1}, 0.3, CLASSES) as record:
        for index in range(5):
            record.add(frame_of(index, LiveTrack(4, 0, 0.6, square(2 * index))), "")
        write_record(path, record, Footage("0", SIZE, 30.0, None), {"checkpoint": "step-1"})
    said = json.loads(path.read_text())
    assert said["video"]["frames"] == 5
    assert said["tracks"][0]["speed_px_per_s"] == 60
    assert len(said["results"][0]["segmentations"]) == 5
    assert said["results"][0]["category_id"] == 1


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("-", True),
        ("0", True),
        ("/dev/video0", True),
        ("rtsp://camera/1", True),
        ("http://host/live.m3u8", True),
        ("video.mp4", False),
        ("folder/00", False),
        ("C:/clips/a.mp4", False),
    ],
)
def test_what_counts_as_a_stream(source, answer):
    assert is_stream(source) is answer


def test_a_file_with_the_name_of_a_camera_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    assert not is_stream("0")


def test_an_address_is_read_frame_by_frame(clip):
    with open_stream(clip.as_uri()) as stream:
        assert stream.fps == 12.5
        assert stream.size == (48, 64)
        assert stream.endless
        frames = list(stream.frames)
    assert len(frames) == 7
    assert abs(int(frames[3].mean()) - 60) < 4


def test_standard_input_is_read_frame_by_frame(clip):
    program = (
        "from mlkit_dvis.drawing.streams import open_stream\n"
        "with open_stream('-') as stream:\n"
        "    print(stream.size, stream.endless, sum(1 for _ in stream.frames))"
    )
    with clip.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=file, capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "(48, 64) False 7"


def test_a_camera_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match="cannot be opened") as caught, open_stream("/dev/video97"):
        pass
    assert "rtsp" in caught.value.hint


def test_a_stream_without_a_picture_is_an_input_error(tmp_path):
    import wave

    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0" * 4000)
    with pytest.raises(InputError, match="holds no video"), open_stream(path.as_uri()):
        pass
