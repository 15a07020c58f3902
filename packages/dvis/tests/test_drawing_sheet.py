"""The contact sheet: which frames it shows, and that every object has its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from mlkit_dvis.drawing import ContactSheet, Footage, key_frames, track_rows
from mlkit_dvis.drawing.crops import crop_box, object_crop, plain_crop
from mlkit_dvis.drawing.plots import column_heights, track_plot
from mlkit_dvis.drawing.selection import top_frame
from mlkit_dvis.drawing.shapes import Shape
from mlkit_dvis.drawing.sheet import CROPS
from mlkit_dvis.results import InstanceTrack

SIZE = (48, 60)
CLASSES = ("fish", "crab", "<weed> рыба")


def rle(top, left, side):
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    found = coco.encode(mask)
    return {"size": found["size"], "counts": found["counts"].decode()}


def row_of(weights, visible, label=0, score=0.9, row=0):
    rles = tuple(rle(5 + t % 3, 2 * t % 40, 6) if seen else None for t, seen in enumerate(visible))
    return track_rows([InstanceTrack(label, score, rles, row, tuple(weights))], CLASSES)[0]


def test_the_frames_with_the_largest_weights_are_shown_in_order_of_time():
    weights = [0.02, 0.3, 0.01, 0.2, 0.05, 0.25, 0.07, 0.1]
    assert key_frames(row_of(weights, [True] * 8), 3) == (1, 3, 5)


def test_a_frame_without_a_mask_is_not_shown_however_much_it_weighs():
    weights = [0.02, 0.3, 0.01, 0.2, 0.05, 0.25, 0.07, 0.1]
    visible = [True, False, True, True, True, True, True, True]
    assert key_frames(row_of(weights, visible), 3) == (3, 5, 7)


def test_without_weights_the_frames_are_spread_over_where_it_is_seen():
    visible = [t >= 3 for t in range(14)]
    assert key_frames(row_of((), visible), 3) == (3, 8, 13)


def test_an_object_of_few_frames_is_shown_in_all_of_them():
    assert key_frames(row_of((), [False, True, True, False]), 5) == (1, 2)
    assert key_frames(row_of((), [False] * 4), 5) == ()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_no_frame_left_out_weighs_more_than_one_shown(seed, count):
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.ones(12)).tolist()
    visible = (generator.random(12) < 0.8).tolist()
    row = row_of(weights, visible)
    shown = key_frames(row, count)
    left = set(row.visible) - set(shown)
    assert list(shown) == sorted(shown)
    assert len(shown) == min(count, len(row.visible))
    if shown and left:
        assert min(weights[t] for t in shown) >= max(weights[t] for t in left)


def test_the_top_frame_is_the_heaviest_else_the_largest():
    assert top_frame(row_of([0.1, 0.2, 0.7], [True, True, False])) == 1
    rles = (rle(0, 0, 4), rle(0, 0, 9), rle(0, 0, 5))
    assert top_frame(track_rows([InstanceTrack(0, 0.5, rles)], CLASSES)[0]) == 1


def test_the_sheet_has_a_line_for_each_object_with_its_crops():
    weights = [1 / 9] * 9
    tracks = [
        InstanceTrack(k, 0.9 - k / 10, row_of(weights, [True] * 9).track.rles, k, tuple(weights))
        for k in range(3)
    ]
    rows = track_rows(tracks, CLASSES)
    sheet = ContactSheet(rows, Footage("dir/reef.mp4", SIZE, 25.0, 9), CLASSES)
    for index in range(9):
        sheet.add(index, np.full((*SIZE, 3), 200, np.uint8))
    assert len(sheet._crops) == 3 * CROPS
    picture = np.asarray(sheet.draw())
    for row in rows:
        colour = (np.abs(picture.astype(int) - row.colour).max(-1) < 3).any(1)
        lines = np.flatnonzero(colour)
        assert len(lines) > 100  # its bar is 150 pixels high
    heights = [
        ContactSheet(rows[:n], Footage("x", SIZE, None, 9), CLASSES).draw().height
        for n in (1, 2, 3)
    ]
    assert heights[2] - heights[1] == heights[1] - heights[0] > 150


def test_a_sheet_of_nothing_says_so():
    sheet = ContactSheet((), Footage("x.mp4", SIZE, None, 3), CLASSES).draw()
    assert (np.asarray(sheet) < 200).any()


def test_crops_are_squares_with_a_margin_inside_the_frame():
    assert crop_box((40, 40, 60, 51), (100, 200)) == (36, 32, 63, 59)
    x0, y0, x1, y1 = crop_box((0, 0, 30, 10), (100, 200))
    assert (x0, y0) == (0, 0)
    assert x1 - x0 == y1 - y0 == 41
    x0, y0, x1, y1 = crop_box((0, 0, 190, 90), (100, 200))  # wider than the frame is high
    assert x1 - x0 == y1 - y0
    assert y0 < 0 < 100 < y1


def test_a_crop_shows_the_object_bright_and_its_surroundings_darker():
    frame = np.full((60, 80, 3), 100, np.uint8)
    shape = Shape(20, 30, np.ones((20, 20), bool))
    crop = object_crop(frame, shape, (230, 159, 0), 50)
    assert crop.shape == (50, 50, 3)
    assert (crop[25, 25] == 100).all()
    assert (crop[2, 2] == 72).all()
    assert (np.abs(crop.astype(int) - (230, 159, 0)).max(-1) < 40).any()


def test_beyond_the_frame_a_crop_is_grey():
    crop = plain_crop(np.zeros((10, 10, 3), np.uint8), (-5, 0, 5, 10), 10)
    assert (crop[:, :4] > 200).all()
    assert (crop[:, 6:] < 20).all()


@pytest.mark.parametrize("columns", [3, 7, 20, 21])
def test_no_peak_is_lost_where_frames_are_more_than_pixels(columns):
    values = np.zeros(20)
    values[13] = 1
    heights = column_heights(values, columns)
    assert heights.max() == 1
    assert len(heights) == columns
    peak = int(heights.argmax())
    assert peak * 20 / columns - 1 <= 13 <= (peak + 1) * 20 / columns


def test_a_plot_of_a_video_without_a_refiner_is_drawn_too():
    plot = track_plot(row_of((), [True, False, True]), (0,), Footage("x", SIZE, 5.0, 3), (300, 170))
    assert plot.size == (300, 170)
