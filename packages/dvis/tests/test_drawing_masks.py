"""Masks, colours and labels in frames: which pixels change, and to what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy.ndimage import binary_erosion

from mlkit_dvis.drawing.colours import PALETTE, TrackColours, hexadecimal, ink
from mlkit_dvis.drawing.overlay import STRENGTH, Drawn, _free_place, draw_objects, line_width
from mlkit_dvis.drawing.shapes import Shape, area, box_of, decode, encode, outline, shape_of, union
from mlkit_dvis.drawing.text import fitted, paste, plain, tag, text_width

ORANGE = (230, 159, 0)


def rle_of(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_interior_of_a_decoded_mask_is_mixed_and_the_rest_is_the_frame():
    mask = np.zeros((120, 150), bool)
    mask[30:80, 40:110] = True
    mask[50:60, 60:70] = False  # a hole
    frame = noise(120, 150)
    shape = decode(rle_of(mask))
    picture = draw_objects(frame, [Drawn(shape, ORANGE)])
    edge = np.zeros_like(mask)
    edge[shape.window] = outline(shape.mask, line_width(frame))
    mixed = (frame.astype(int) * (256 - STRENGTH) + np.array(ORANGE) * STRENGTH) >> 8
    assert edge.sum() < mask.sum() / 4
    np.testing.assert_array_equal(picture[mask & ~edge], mixed[mask & ~edge])
    assert (picture[edge] == ORANGE).all()
    np.testing.assert_array_equal(picture[~mask], frame[~mask])


def test_drawing_leaves_the_given_frame_alone():
    frame = noise(40, 40)
    before = frame.copy()
    draw_objects(frame, [Drawn(Shape(5, 5, np.ones((9, 9), bool)), ORANGE, "x")], "caption")
    np.testing.assert_array_equal(frame, before)


def test_of_two_masks_that_overlap_the_first_is_on_top():
    one, other = (Shape(10, 10, np.ones((40, 40), bool)) for _ in range(2))
    frame = np.zeros((60, 60, 3), np.uint8)
    top = draw_objects(frame, [Drawn(one, (200, 0, 0)), Drawn(other, (0, 200, 0))])
    assert top[30, 30, 0] > top[30, 30, 1]
    assert (top[10, 10] == (200, 0, 0)).all()


def test_an_outline_of_width_one_by_hand():
    mask = np.array(
        [
            [0, 1, 1, 1, 0],
            [1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1],
        ],
        bool,
    )
    inner = np.zeros_like(mask)
    inner[1, 1:4] = inner[2, 1:4] = True
    inner[2, 1] = True  # its neighbours (1, 1), (3, 1), (2, 0), (2, 2) are all inside
    np.testing.assert_array_equal(outline(mask, 1), mask & ~inner)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_outlines_are_what_scipy_erodes(seed, width):
    mask = np.random.default_rng(seed).random((9, 13)) < 0.8
    np.testing.assert_array_equal(
        outline(mask, width), mask & ~binary_erosion(mask, iterations=width)
    )


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_come_back_as_the_same_mask(seed, density):
    mask = np.random.default_rng(seed).random((11, 7)) < density
    rle = rle_of(mask)
    shape = decode(rle)
    assert area(rle) == mask.sum()
    np.testing.assert_array_equal(union([shape], mask.shape), mask)
    if shape is not None:
        assert encode(shape, mask.shape) == rle
        again = shape_of(mask)
        assert again.box_xyxy == shape.box_xyxy


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools under numpy 2
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 70))
def test_masks_are_decoded_as_pycocotools_does(seed, height, width):
    generator = np.random.default_rng(seed)
    mask = generator.random((height, width)) < generator.random()
    if seed % 2:  # long runs too, whose lengths need several characters
        mask[:, : width // 2] = False
        mask[:, width * 3 // 4 :] = True
    rle = rle_of(mask)
    np.testing.assert_array_equal(union([decode(rle)], mask.shape), coco.decode(rle).astype(bool))
    assert area(rle) == coco.area(rle)
    x, y, w, h = coco.toBbox(rle)
    assert (box_of(rle) or (0, 0, 0, 0)) == (x, y, x + w, y + h)


def test_plain_run_lengths_are_understood_too():
    shape = decode({"size": [3, 4], "counts": [4, 2, 6]})
    assert shape.box_xyxy == (1, 1, 2, 3)


def test_an_empty_mask_has_no_shape_and_no_run_lengths():
    assert decode(rle_of(np.zeros((5, 6), bool))) is None
    assert decode(None) is None
    assert shape_of(np.zeros((5, 6), bool)) is None
    assert encode(None, (5, 6)) is None


def test_a_track_keeps_its_colour_whatever_comes_between():
    colours = TrackColours()
    first = {track: colours.of(track) for track in range(10)}
    for frame in range(50):
        for track in (0, 3, 1, 9) if frame % 2 else range(10):
            assert colours.of(track) == first[track]
    assert len(set(first.values())) == 10


def test_a_long_stream_reuses_colours_and_no_two_visible_tracks_share_one():
    colours, before = TrackColours(), {}
    for start in range(300):
        visible = {track: colours.of(track) for track in range(start, start + 6)}
        assert len(set(visible.values())) == 6
        assert all(visible[track] == before[track] for track in visible if track in before)
        before = visible
    assert len(colours._places) <= len(PALETTE)


def test_letters_are_black_or_white_whichever_is_read_better():
    assert ink((240, 228, 66)) == (0, 0, 0)
    assert ink((0, 50, 90)) == (255, 255, 255)
    assert hexadecimal((0, 158, 115)) == "#009e73"


@pytest.mark.parametrize(
    "name",
    [
        "<b>fish</b>",
        "рыба 鱼 \U0001f41f",
        "a\nb\tc",
        "\u202eevil\u202c",
        "",
        "x" * 500,
        "\x00\x07",
        "é\u0301",
    ],
)
def test_any_name_is_drawn_on_one_line_inside_the_frame(name):
    text = plain(name)
    assert len(text) <= 48
    assert "\n" not in text
    assert not any(c in text for c in "\u202e\u202c\x00\x07")
    frame = noise(60, 80)
    drawn = Drawn(Shape(0, 0, np.ones((8, 8), bool)), ORANGE, f"{text} #1 0.50")
    picture = draw_objects(frame, [drawn], plain(name))
    assert picture.shape == frame.shape
    assert picture.dtype == np.uint8


def test_markup_is_drawn_as_it_is_and_not_read():
    assert plain("<b>fish</b>") == "<b>fish</b>"
    assert tag("<b>f</b>", ORANGE, 14).shape[1] > tag("f", ORANGE, 14).shape[1]


def test_a_line_is_cut_to_the_width_that_there_is():
    cut = fitted("motorcyclist_with_motorcycle", 12, 60)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 60
    assert fitted("dog", 12, 60) == "dog"


def test_a_stamp_that_juts_out_is_cut():
    picture = np.zeros((4, 4, 3), np.uint8)
    stamp = np.full((3, 3, 4), 255, np.uint8)
    paste(picture, stamp, -2, 3)
    assert (picture[0, 3] == 255).all()
    assert picture.sum() == 255 * 3
    paste(picture, stamp, 9, 9)
    assert picture.sum() == 255 * 3


def test_labels_of_neighbours_do_not_cover_each_other():
    taken = []
    for i in range(4):
        shape = Shape(80, 100 + 4 * i, np.ones((30, 30), bool))
        _free_place(shape, (15, 66), (200, 300), taken)
    for i, (top, left, height, width) in enumerate(taken):
        assert 0 <= top <= 200 - height
        assert 0 <= left <= 300 - width
        for t, x, h, w in taken[:i]:
            assert top >= t + h or t >= top + height or left >= x + w or x >= left + width
    assert taken[0][0] == 80 - 15  # the first stands on top of its object
