from dataclasses import replace

import cv2
import numpy as np
import pytest

from mlkit_core.errors import DataError
from mlkit_refdet.scenes.compose import compose, homography, render
from mlkit_refdet.scenes.cutouts import (
    GREY,
    VIEW_SIZES,
    cut_from_white,
    reference_view,
    white_mask,
)
from mlkit_refdet.scenes.looks import Cover, Look, LookRanges, draw_look


def solid(height, width, colour=(200, 30, 30)):
    """Return an opaque rectangle as a cut-out."""
    opaque = np.full((height, width), 255, np.uint8)
    return np.dstack([np.full((height, width, 3), colour, np.uint8), opaque])


def disc(side, colour):
    """Return a disc whose transparent corners are bright green."""
    y, x = np.indices((side, side)) - (side - 1) / 2
    inside = np.hypot(x, y) < side / 2 - 1
    colours = np.where(inside[..., None], colour, (0, 255, 0))
    return np.dstack([colours, 255 * inside]).astype(np.uint8)


def test_an_upright_rectangle_has_the_box_worked_out_by_hand():
    layer = render(solid(20, 40), Look(40), (50, 30))
    image, seen = compose(np.zeros((64, 96, 3), np.uint8), [layer])
    assert seen[0].box_xyxy == (30, 20, 70, 40)
    assert seen[0].share == pytest.approx(1, abs=1e-6)
    assert (image[21:39, 31:69] == (200, 30, 30)).all()
    assert not image[:18].any()
    assert not image[:, :28].any()


def test_half_of_an_object_beyond_the_border_leaves_half_of_it():
    layer = render(solid(20, 20), Look(20), (0, 30))
    _, seen = compose(np.zeros((64, 64, 3), np.uint8), [layer])
    assert seen[0].box_xyxy == (0, 20, 10, 40)
    assert seen[0].share == pytest.approx(0.5, abs=0.01)


def test_what_lies_beyond_the_picture_is_not_seen():
    _, seen = compose(np.zeros((64, 64, 3), np.uint8), [render(solid(8, 8), Look(8), (-40, 5))])
    assert seen[0].box_xyxy is None
    assert seen[0].share == 0


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_the_pixels_that_change_with_the_objects_colour(seed):
    """Black and white copies of one object differ by 255 times its visible opacity."""
    rng = np.random.default_rng(seed)
    ranges = LookRanges((20, 60), cover_chance=0.5, gain=(1, 1), tint=0, contrast=(1, 1))
    looks = [draw_look(ranges, rng) for _ in range(3)]
    centres = rng.uniform(20, 76, (3, 2))
    background = rng.integers(0, 255, (96, 96, 3), np.uint8)

    def picture(number, colour):
        cuts = [disc(50, (90, 90, 90)) for _ in range(3)]
        cuts[number] = disc(50, colour)
        layers = [
            render(c, look, tuple(at)) for c, look, at in zip(cuts, looks, centres, strict=True)
        ]
        return compose(background, layers)

    for number in range(3):
        white, seen = picture(number, (255, 255, 255))
        opacity = (white.astype(float) - picture(number, (0, 0, 0))[0]).mean(-1) / 255
        own = render(disc(50, (0, 0, 0)), looks[number], tuple(centres[number])).alpha
        rows, columns = (np.flatnonzero((opacity >= 0.5 * own.max()).any(i)) for i in (1, 0))
        if not len(rows):
            assert seen[number].box_xyxy is None
            continue
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        # A pixel whose opacity is within rounding of one half may fall on either side.
        assert np.abs(np.subtract(seen[number].box_xyxy, box)).max() <= 1
        whole = render(disc(50, (0, 0, 0)), replace(looks[number], cover=None), (48, 48)).alpha
        assert seen[number].share == pytest.approx(opacity.sum() / whole.sum(), abs=0.03)


def test_nothing_of_what_a_cut_out_hides_bleeds_into_its_edge():
    layer = render(disc(80, (200, 0, 0)), Look(23, angle_deg=20, blur_px=1.2), (32, 32))
    image, _ = compose(np.zeros((64, 64, 3), np.uint8), [layer])
    assert image[..., 0].max() > 180
    assert image[..., 1].max() <= 1


def test_perspective_is_that_of_opencv():
    target = np.array([[3, 2], [60, 9], [55, 40], [1, 47]], np.float32)
    source = np.array([[0, 0], [32, 0], [32, 24], [0, 24]], np.float32)
    theirs = cv2.getPerspectiveTransform(target, source).ravel()[:8]
    assert np.allclose(homography(target.astype(float), source.astype(float)), theirs, atol=1e-4)


def test_corners_of_a_turned_object_lie_where_trigonometry_puts_them():
    layer = render(solid(30, 30), Look(30, angle_deg=45), (50, 50))
    _, seen = compose(np.zeros((100, 100, 3), np.uint8), [layer])
    reach = 30 / 2**0.5  # half of the diagonal
    assert (
        np.abs(np.array(seen[0].box_xyxy) - [50 - reach, 50 - reach, 50 + reach, 50 + reach]).max()
        < 1.5
    )


def test_turning_is_clockwise():
    cut = solid(30, 30)
    cut[:15, :, :3] = (0, 0, 250)  # the upper half is blue
    image, _ = compose(
        np.zeros((64, 64, 3), np.uint8), [render(cut, Look(30, angle_deg=90), (32, 32))]
    )
    assert image[32, 42, 2] > 200  # and comes to lie on the right
    assert image[32, 22, 0] > 150


@pytest.mark.parametrize("angle", [0, 90, 200])
def test_a_cover_hides_its_share_of_a_square(angle):
    look = Look(60, cover=Cover(angle, 0.3))
    _, seen = compose(np.zeros((128, 128, 3), np.uint8), [render(solid(60, 60), look, (64, 64))])
    if angle % 90 == 0:
        assert seen[0].share == pytest.approx(0.7, abs=0.02)
    else:
        assert 0.6 < seen[0].share < 0.95


def test_a_cover_to_the_right_shortens_the_box_from_the_right():
    look = Look(60, cover=Cover(0, 0.25))
    _, seen = compose(np.zeros((128, 128, 3), np.uint8), [render(solid(60, 60), look, (64, 64))])
    assert seen[0].box_xyxy is not None
    assert seen[0].box_xyxy[0] == 34
    assert abs(seen[0].box_xyxy[2] - 79) <= 1


def test_gains_scale_colours_and_leave_opacity():
    plain = render(solid(20, 20, (100, 80, 60)), Look(20), (16, 16))
    lit = render(solid(20, 20, (100, 80, 60)), Look(20, gains=(0.5, 1.0, 1.5)), (16, 16))
    assert np.array_equal(plain.alpha, lit.alpha)
    assert np.allclose(lit.colours[15, 15], (50, 80, 90), atol=1)


def test_looks_stay_within_their_ranges_and_follow_the_seed():
    ranges = LookRanges()
    rng = np.random.default_rng(3)
    looks = [draw_look(ranges, rng) for _ in range(300)]
    sizes = np.array([look.longest_px for look in looks])
    assert sizes.min() >= 15
    assert sizes.max() <= 110
    assert abs(np.median(sizes) - 62.5) < 8
    assert max(np.abs(look.corners).max() for look in looks) <= ranges.perspective
    assert all(look.blur_px <= look.longest_px / 15 for look in looks)
    assert 0.15 < np.mean([look.cover is not None for look in looks]) < 0.35
    again = np.random.default_rng(3)
    assert looks == [draw_look(ranges, again) for _ in range(300)]


def photo_of_disc(radius=30, colour=(30, 120, 60)):
    """Return a photo on white of a disc with a white label within, and the disc."""
    y, x = np.indices((100, 120))
    inside = np.hypot(x - 60, y - 50) < radius
    photo = np.where(inside[..., None], colour, 255).astype(np.uint8)
    photo[45:55, 52:68] = 255
    return photo, inside


def test_a_disc_on_white_is_cut_out_with_its_white_label():
    photo, inside = photo_of_disc()
    assert np.array_equal(white_mask(photo), inside)
    cut = cut_from_white(photo)
    assert cut.shape == (59, 59, 4)
    assert cut[29, 29, 3] == 255
    assert (cut[..., 3] > 127).sum() == pytest.approx(inside.sum(), rel=0.07)


def test_a_smaller_thing_beside_the_object_is_left_out():
    photo, inside = photo_of_disc()
    photo[5:15, 5:15] = 0
    assert np.array_equal(white_mask(photo), inside)


def test_white_cardboard_belongs_to_the_object():
    photo = np.full((100, 100, 3), 255, np.uint8)
    photo[20:80, 30:70] = 246  # cardboard
    photo[20:80, 30:40] = (0, 90, 160)
    mask = white_mask(photo)
    assert mask[25:75, 32:66].all()
    assert not mask[:19].any()
    assert not mask[:, 72:].any()


def test_edges_of_a_cut_out_hold_no_white():
    photo, _ = photo_of_disc(colour=(20, 20, 20))
    soft = cv2.GaussianBlur(photo, (0, 0), 0.8)  # as a lens and a JPEG mix them
    cut = cut_from_white(soft)
    shown = cut[..., 3] > 20
    shown[15:45, 15:45] = False  # the label
    assert shown.sum() > 1500
    assert cut[shown, :3].max() < 100  # of 255


def test_a_white_photo_holds_no_object():
    with pytest.raises(DataError, match="shows no object"):
        cut_from_white(np.full((50, 50, 3), 255, np.uint8))


@pytest.mark.parametrize("sizes", VIEW_SIZES)
def test_a_reference_view_is_as_large_as_asked_and_grey_around(sizes):
    view = reference_view(disc(150, (180, 40, 40)), sizes, np.random.default_rng(1))
    assert view.shape == (160, 160, 4)
    mask = view[..., 3] > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    assert 0.85 * sizes[0] <= longest <= 1.15 * sizes[1]
    assert (view[view[..., 3] == 0][:, :3] == GREY).all()
    assert view[mask, 0].mean() > 120
    assert view[mask, 1].mean() < 60
    assert abs(rows.mean() - 80) < 3
