"""Letterboxes by hand and against the installed library's, and boxes there and back."""

import numpy as np
import pytest

from mlkit_cluster.images.letterbox import (
    clip_to_content,
    fit,
    letterbox,
    to_input,
    to_original,
)
from mlkit_core.types import Letterbox


def test_a_wide_image_is_padded_above_and_below():
    # 200 x 100 into 64: scale .32, content 64 x 32, 16 above and 16 below.
    assert fit((100, 200), 64) == Letterbox(scale=0.32, size=(32, 64), offset=(16, 0))


def test_an_odd_pixel_of_padding_goes_below():
    # 64 x 33 of 64 x 64: 31 rows of padding, 15 above.
    assert fit((33, 64), 64) == Letterbox(scale=1.0, size=(33, 64), offset=(15, 0))


def test_a_line_keeps_at_least_a_pixel():
    assert fit((1, 1000), 64).size == (1, 64)


@pytest.mark.parametrize("size", [(61, 97), (480, 640), (333, 500), (640, 427), (50, 50), (7, 300)])
@pytest.mark.parametrize("side", [64, 320])
def test_pixels_equal_those_of_the_installed_library(size, side):
    from ultralytics.data.augment import LetterBox

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = LetterBox((side, side), auto=False)(image=pixels)
    assert (letterbox(pixels, side)[0] == theirs).all()


def test_boxes_go_there_by_hand_and_come_back():
    box = fit((100, 200), 64)
    boxes = np.array([[0, 0, 200, 100], [50, 25, 150, 75]], np.float32)
    inside = to_input(boxes, box, (100, 200))
    assert inside.tolist() == [[0, 16, 64, 48], [16, 24, 48, 40]]
    np.testing.assert_allclose(to_original(inside, box, (100, 200)), boxes, atol=1e-5)


def test_each_axis_has_the_scale_of_its_rounded_side():
    box = fit((425, 640), 320)  # 425 / 2 is rounded to 212
    assert box.size == (212, 320)
    whole = to_input(np.array([[0, 0, 640, 425]]), box, (425, 640))
    assert whole.tolist() == [[0, 54, 320, 266]]


def test_boxes_are_clipped_to_what_shows_the_image():
    box = fit((100, 200), 64)
    boxes = np.array([[-5, 0, 70, 64]], np.float32)
    assert clip_to_content(boxes, box).tolist() == [[0, 16, 64, 48]]
    assert to_original(boxes, box, (100, 200)).tolist() == [[0, 0, 200, 100]]


def test_no_boxes_are_no_boxes():
    box = fit((100, 200), 64)
    assert to_input(np.zeros((0, 4)), box, (100, 200)).shape == (0, 4)
    assert to_original(np.zeros((0, 4)), box, (100, 200)).shape == (0, 4)
