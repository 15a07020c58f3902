"""Videos are written so that reading them gives the frames back, and read as they are shown."""

import struct

import av
import numpy as np
import pytest
from PIL import Image

from mlkit_core.errors import DataError, InputError, MlkitError
from mlkit_dvis.video import VideoFile, VideoWriter, open_source, read_frames

SIZE, COUNT = (48, 80), 30


def smooth(t, size=SIZE):
    """Return a frame whose colours change slowly over the picture and in time."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    waves = (rows / 20 + t / 9, columns / 31 + t / 13, (rows + columns) / 47)
    return np.stack([127 + 90 * np.sin(wave) for wave in waves], -1).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def write(path, frames, fps=25.0):
    with VideoWriter(path, fps, frames[0].shape[:2]) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("film") / "film.mp4", [smooth(t) for t in range(COUNT)])


def test_frames_come_back_in_number_order_and_colour(film):
    frames = list(read_frames(film))
    assert len(frames) == COUNT
    assert all(psnr(smooth(t), frame) > 38 for t, frame in enumerate(frames))


def test_pure_colours_come_back(tmp_path):
    # Another colour matrix than the one that was written would move them by 15 levels and more.
    colours = np.array([[200, 20, 20], [20, 180, 20], [20, 20, 220], [230, 230, 40]], np.uint8)
    frame = colours.repeat(32, 0)[None].repeat(48, 0)
    back = next(read_frames(write(tmp_path / "colours.mp4", [frame] * 3)))
    centres = back[24, 16::32].astype(int)
    assert np.abs(centres - colours).max() <= 4


def test_a_film_is_h264_that_browsers_play(film):
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1  # BT.709, and the film says so
        assert stream.codec_context.color_range == 1
    content = film.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_source_tells_size_rate_and_number(film):
    source = open_source(film)
    assert (source.size, source.frames, source.fps) == (SIZE, COUNT, 25.0)


def test_start_stop_and_stride_choose_frames(film):
    whole = list(read_frames(film))
    some = list(read_frames(film, start=4, stop=20, stride=5))
    assert len(some) == 4
    assert all(np.array_equal(a, b) for a, b in zip(some, whole[4:20:5], strict=True))


def test_random_access_equals_reading_in_order(film):
    whole = list(read_frames(film))
    with VideoFile(film) as video:
        assert (len(video), video.fps) == (COUNT, 25.0)
        for number in (29, 0, 17, 3, 16):
            assert np.array_equal(video[number], whole[number])
        some = [5, 21, 2, 2]
        assert all(map(np.array_equal, video.read(some), [whole[n] for n in some]))


ENCODERS = {
    "short groups": ("mp4", "libx264", {"x264-params": "keyint=3:min-keyint=1:bframes=2"}),
    "no reordering": ("mp4", "libx264", {"x264-params": "bframes=0:keyint=7"}),
    "open groups": ("mkv", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    "mpeg-4": ("mp4", "mpeg4", {"g": "5", "bf": "2"}),
    "avi": ("avi", "mpeg4", {"g": "6"}),
    "webm": ("webm", "libvpx-vp9", {"g": "9", "deadline": "realtime"}),
    "single pictures": ("mov", "mjpeg", {}),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_random_access_is_exact_in_other_containers_and_codecs(tmp_path, name):
    suffix, codec, options = ENCODERS[name]
    path = tmp_path / f"film.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for t in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(smooth(t), format="rgb24")))
        container.mux(stream.encode(None))
    whole = list(read_frames(path))
    assert len(whole) == COUNT
    with VideoFile(path) as video:
        assert len(video) == COUNT
        for number in (22, 1, 8, 29, 9, 0):
            assert np.array_equal(video[number], whole[number]), number


def test_odd_sizes_are_padded_by_the_last_row_and_column(tmp_path):
    frames = [smooth(t, (47, 79)) for t in range(3)]
    back = list(read_frames(write(tmp_path / "odd.mp4", frames)))
    assert back[0].shape == (48, 80, 3)
    assert psnr(frames[0], back[0][:47, :79]) > 34
    assert np.abs(back[0][47].astype(int) - back[0][46]).max() < 12


def turned(film, path, matrix):
    """Write the film with another matrix in its track header, as cameras do."""
    content = bytearray(film.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0: times, then layer and volume
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    return path


def test_a_turned_video_is_read_as_it_is_shown(film, tmp_path):
    one, last = 1 << 16, 1 << 30
    height, width = SIZE
    # Rows (a b u) (c d v) (x y w) of QuickTime's matrix send (p, q) to (ap + cq + x, bp + dq + y):
    # here the top left corner goes to the top right, which is a quarter clockwise.
    clockwise = turned(film, tmp_path / "a.mp4", [0, one, 0, -one, 0, 0, height * one, 0, last])
    half = [-one, 0, 0, 0, -one, 0, width * one, height * one, last]
    upside_down = turned(film, tmp_path / "b.mp4", half)
    plain = next(read_frames(film))
    assert open_source(clockwise).size == (width, height)
    assert np.array_equal(next(read_frames(clockwise)), np.rot90(plain, -1))
    assert np.array_equal(next(read_frames(upside_down)), plain[::-1, ::-1])
    with VideoFile(clockwise) as video:
        assert np.array_equal(video[0], np.rot90(plain, -1))


def test_images_of_a_folder_come_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert (source.size, source.frames, source.fps) == ((4, 6), 3, None)
    assert [int(frame[0, 0, 0]) for frame in read_frames(tmp_path)] == [1, 2, 10]
    assert [int(frame[0, 0, 0]) for frame in read_frames(tmp_path, start=1, stride=2)] == [2]


def test_an_image_is_a_video_of_one_frame(tmp_path):
    Image.fromarray(smooth(0)).save(tmp_path / "one.png")
    assert open_source(tmp_path / "one.png").frames == 1
    assert np.array_equal(next(read_frames(tmp_path / "one.png")), smooth(0))


def test_a_grey_or_palette_image_is_read_as_rgb(tmp_path):
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "grey.png")
    assert next(read_frames(tmp_path / "grey.png")).tolist() == [[[9, 9, 9]] * 4] * 4


def broken(folder, name, film):
    path = folder / name
    if name == "cut.mp4":
        path.write_bytes(film.read_bytes()[:-900])
    elif name == "garbage.mp4":
        path.write_bytes(b"no video at all " * 100)
    elif name == "sound.wav":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
    elif name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "empty":
        path.mkdir()
    elif name == "mixed":
        path.mkdir()
        for number, side in enumerate((4, 5)):
            Image.fromarray(np.zeros((side, 4, 3), np.uint8)).save(path / f"{number}.png")
    elif name == "bad.png":
        path.write_bytes(b"\x89PNG nothing")
    return path


BROKEN = {
    "gone.mp4": r"gone\.mp4: no such file",
    "gone.png": r"gone\.png: no such file",
    "cut.mp4": r"cut\.mp4: ends after frame \d+ of 30",
    "garbage.mp4": r"garbage\.mp4: not a readable video: invalid data",
    "empty.mp4": r"empty\.mp4: not a readable video: ",
    "sound.wav": r"sound\.wav: holds no video",
    "empty": r"empty: holds no image",
    "mixed": r"mixed: frame 1 is 5 x 4, those before are 4 x 4",
    "bad.png": r"bad\.png: not a readable image: ",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path, film, name):
    path = broken(tmp_path, name, film)
    with pytest.raises(InputError, match=BROKEN[name]) as caught:
        list(read_frames(path))
    assert isinstance(caught.value, DataError)


def test_a_cut_video_says_what_to_do(tmp_path, film):
    path = broken(tmp_path, "cut.mp4", film)
    with pytest.raises(DataError) as caught:
        list(read_frames(path))
    assert "cut short or damaged" in caught.value.hint


def test_a_video_that_is_cut_between_two_frames_is_told(tmp_path, film):
    with av.open(str(film)) as container:
        ends = sorted(p.pos + p.size for p in container.demux(video=0) if p.size)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: ends[14]])
    with pytest.raises(DataError, match="ends after frame 15 of 30"):
        list(read_frames(cut))
    with pytest.raises(DataError, match="ends after frame 15 of 30"):
        VideoFile(cut)


def test_a_frame_beyond_the_end_is_refused(film):
    with VideoFile(film) as video, pytest.raises(DataError, match=r"no frame 30: it has 30"):
        video[30]


def test_an_error_leaves_no_file(tmp_path):
    def stop():
        with VideoWriter(tmp_path / "a.mp4", 10, SIZE) as writer:
            writer.write(smooth(0))
            raise KeyError

    with pytest.raises(KeyError):
        stop()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_film_stays_until_the_new_one_is_whole(tmp_path):
    path = write(tmp_path / "a.mp4", [smooth(0)] * 2)
    before = path.read_bytes()
    with VideoWriter(path, 10, SIZE) as writer:
        for t in range(5):
            writer.write(smooth(t))
            assert path.read_bytes() == before
    assert len(list(read_frames(path))) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_film_without_frames_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="no frame was written"):
        VideoWriter(tmp_path / "a.mp4", 10, SIZE).close()
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match=r"expected uint8 \(48, 80, 3\), got uint8 \(8, 8, 3\)"),
        VideoWriter(tmp_path / "a.mp4", 10, SIZE) as writer,
    ):
        writer.write(np.zeros((8, 8, 3), np.uint8))


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(MlkitError, match=r"a\.mp4: cannot be written: no such folder"):
        VideoWriter(tmp_path / "gone" / "a.mp4", 10, SIZE)
