"""Frames by number out of films and image files, and what is kept of them."""

import multiprocessing
import pickle

import numpy as np
import pytest

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.frames import FrameReader
from mlkit_refdet.episodes.recent import Recent
from mlkit_refdet.episodes.video import NEAR


def test_every_frame_of_a_film_is_the_one_with_that_number(film, number_of):
    reader = FrameReader(film)
    assert len(reader) == 100
    assert reader.size == (48, 64)
    assert reader.fps == 10
    assert [number_of(reader.read(n)) for n in range(100)] == list(range(100))


def test_frames_in_any_order_equal_those_in_sequence(film, number_of):
    reader, order = FrameReader(film), np.random.default_rng(0).permutation(100)[:40]
    assert [number_of(reader.read(int(n))) for n in order] == order.tolist()


def test_near_frames_ahead_are_decoded_through_and_others_are_sought(film):
    reader = FrameReader(film)
    for number in (0, 1, 2, 30, 30 + NEAR):
        reader.read(number)
    decoder = reader._frames._opened
    assert decoder.seeks == 0
    reader.read(95)
    reader.read(10)  # behind
    assert decoder.seeks == 1
    reader.read(10 + NEAR + 1)  # too far
    assert decoder.seeks == 2


def test_a_reader_that_is_sent_elsewhere_holds_no_handle_and_no_pixels(film):
    kept = Recent(1 << 20)
    reader = FrameReader(film, kept=kept)
    first = reader.read(50)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy._frames._opened is None
    assert len(copy._kept) == 0
    assert np.array_equal(copy.read(50), first)


def _read_in_child(reader, number, queue, number_of):
    queue.put(number_of(reader.read(number)))


def test_a_forked_process_opens_the_film_anew(film, number_of):
    reader = FrameReader(film)
    reader.read(3)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [
        context.Process(target=_read_in_child, args=(reader, number, queue, number_of))
        for number in (70, 12)
    ]
    for child in children:
        child.start()
    found = sorted(queue.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found == [12, 70]
    assert number_of(reader.read(4)) == 4


def test_a_frame_behind_the_last_is_refused_with_the_count(film):
    with pytest.raises(DataError, match=r"drone_video\.mp4: has no frame 100: it has 100"):
        FrameReader(film).read(100)


def test_verify_finds_frames_that_the_file_claims_but_does_not_hold(film, tmp_path):
    FrameReader(film).verify()
    cut = tmp_path / "cut.mp4"
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat")
    middle = start + (len(content) - start) // 2
    content[middle : middle + 4000] = bytes(4000)
    cut.write_bytes(content)
    with pytest.raises(DataError, match=r"cut\.mp4: "):
        FrameReader(cut).verify()


def test_image_files_are_frames_by_the_number_in_their_name(aeroeyes, number_of):
    made = aeroeyes({"Crate_0": (6, [2])}, as_frames=True)
    folder = made.folder("Crate_0") / "frames"
    (folder / "000003.png").unlink()
    reader = FrameReader(folder, {int(p.stem): p for p in folder.iterdir()})
    assert reader.numbers == (0, 1, 2, 4, 5)
    assert number_of(reader.read(4)) == 4
    with pytest.raises(DataError, match="has no frame 3"):
        reader.read(3)


def test_what_is_kept_stays_below_its_number_of_bytes():
    kept, made = Recent(1000), []

    def make(size):
        made.append(size)
        return np.zeros(size, np.uint8)

    for size in (400, 500, 300):  # the first one has to go
        kept.get(size, lambda size=size: make(size))
    assert kept.nbytes == 800
    kept.get(500, lambda: make(500))
    assert made == [400, 500, 300]
    kept.get(400, lambda: make(400))
    assert made == [400, 500, 300, 400]
    kept.get("large", lambda: make(2000))
    assert kept.nbytes <= 1000


def test_nothing_is_kept_where_the_limit_is_nought():
    kept = Recent(0)
    assert kept.get("a", lambda: np.ones(3)).sum() == 3
    assert len(kept) == 0
