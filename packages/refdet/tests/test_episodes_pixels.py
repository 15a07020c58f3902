"""Letterbox, foreground, random changes and pasted objects, against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Needs
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.augment import (
    STAGES,
    Strength,
    augment_frame,
    augment_photo,
    black_body_rgb,
    lit_by,
    seeded,
    turned,
    visible,
)
from mlkit_refdet.episodes.foreground import (
    View,
    cut_out,
    known_without_pixels,
    mask_square,
    photo_square,
)
from mlkit_refdet.episodes.images import image_size, read_rgb
from mlkit_refdet.episodes.index import Photo
from mlkit_refdet.episodes.paste import paste

GREY = (114, 114, 114)


def square(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A grey square with a white rectangle, and the rectangle's box."""
    pixels = torch.full((3, side, side), 114, dtype=torch.uint8)
    pixels[:, 10:26, 20:44] = 255
    return pixels, torch.tensor([[20.0, 10, 44, 26]])


def box_of(pixels: torch.Tensor) -> list[float]:
    """Return the box of what is white."""
    rows, columns = torch.nonzero(pixels.amin(0) > 200, as_tuple=True)
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return [float(v) for v in ends]


def test_a_frame_lies_in_the_middle_of_a_grey_square():
    box = letterbox.fit((1080, 1920), 640)
    assert (box.size, box.offset) == ((360, 640), (140, 0))
    assert box.scale == pytest.approx(1 / 3)
    pixels = letterbox.to_square(
        np.zeros((30, 60, 3), np.uint8), letterbox.fit((30, 60), 64), 64, GREY
    )
    assert pixels.shape == (3, 64, 64)
    assert (pixels[:, :16] == 114).all()
    assert (pixels[:, 16:48] == 0).all()
    assert (pixels[:, 48:] == 114).all()


def test_boxes_move_with_their_pixels():
    image = np.zeros((60, 120, 3), np.uint8)
    image[12:36, 30:90] = 255
    box = letterbox.fit((60, 120), 96)
    moved = letterbox.boxes_to_square(torch.tensor([[30.0, 12, 90, 36]]), box)
    assert moved.tolist()[0] == pytest.approx(
        box_of(letterbox.to_square(image, box, 96, GREY)), abs=1
    )
    assert moved.tolist()[0] == pytest.approx([24, 24 + 9.6, 72, 24 + 28.8])


def test_padding_is_grey_unless_the_encoders_ask_for_another_colour():
    assert letterbox.padding(Needs()) == GREY
    assert letterbox.padding(Needs(pad_rgb=(0.485, 0.456, 0.406))) == (124, 116, 104)


def test_the_side_is_the_next_that_the_encoders_take():
    assert letterbox.legal_side(500, Needs(size_multiple=32), "query_size") == 512
    assert letterbox.legal_side(500, Needs(sizes=(224, 518)), "support_size") == 518
    with pytest.raises(
        BuildError, match=r"data\.support_size: the encoders take \(224,\), got 500"
    ):
        letterbox.legal_side(500, Needs(sizes=(224,)), "support_size")


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path


def alpha_photo(folder: Path) -> Photo:
    """A red photo of 40 x 40 whose alpha shows columns 10 to 29 of rows 20 to 39."""
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[20:40, 10:30, 3] = 255
    return Photo(save(folder, "alpha.png", pixels))


def test_a_photos_alpha_is_its_mask_and_hides_the_rest(tmp_path):
    shown = photo_square(alpha_photo(tmp_path), View(40, GREY))
    assert shown.mask.nonzero().amin(0).tolist() == [20, 10]
    assert int(shown.mask.sum()) == 400
    assert shown.pixels[:, 30, 20].tolist() == [255, 0, 0]
    assert shown.pixels[:, 5, 5].tolist() == [114, 114, 114]


def test_a_mask_file_comes_before_a_box_and_both_leave_the_photo_as_it_is(tmp_path):
    path = save(tmp_path, "a.png", np.full((20, 20, 3), 77, np.uint8))
    mask = np.zeros((20, 20), np.uint8)
    mask[4:9, 5:15] = 255
    by_mask = Photo(path, save(tmp_path, "a_mask.png", mask), (0, 0, 3, 3))
    shown = photo_square(by_mask, View(20, GREY))
    assert shown.mask.tolist() == (mask > 0).tolist()
    assert (shown.pixels == 77).all()
    by_box = photo_square(Photo(path, None, (2, 3, 10, 7)), View(20, GREY))
    assert int(by_box.mask.sum()) == 8 * 4
    assert bool(by_box.mask[3, 2])


def test_an_unknown_foreground_is_an_empty_mask(tmp_path):
    path = save(tmp_path, "a.jpg", np.full((20, 20, 3), 77, np.uint8))
    assert not photo_square(Photo(path), View(20, GREY)).mask.any()


def test_an_object_smaller_than_a_pixel_keeps_a_mask(tmp_path):
    pixels = np.zeros((400, 400, 4), np.uint8)
    pixels[100:103, 200:203] = 255
    shown = photo_square(Photo(save(tmp_path, "a.png", pixels)), View(32, GREY))
    assert int(shown.mask.sum()) >= 1
    assert shown.mask.nonzero()[0].tolist() == [8, 16]


def test_views_put_the_object_at_a_size_in_the_middle_of_the_square(tmp_path):
    shown = photo_square(alpha_photo(tmp_path), View(64, GREY, longest=24, cut=True))
    rows, columns = torch.nonzero(shown.mask, as_tuple=True)
    assert 19 <= int(rows.max() - rows.min()) + 1 <= 24
    assert 19 <= int(columns.max() - columns.min()) + 1 <= 24
    assert abs(float(rows.float().mean()) - 32) < 3
    content = (shown.pixels != 114).any(0).nonzero()
    assert content.amin() >= 20
    assert content.amax() < 44


def test_a_mask_without_pixels_equals_that_with_them(tmp_path):
    photo, view = alpha_photo(tmp_path), View(48, GREY, 30, cut=True)
    bare = mask_square(photo, view)
    assert bare.pixels is None
    assert bare.mask.equal(photo_square(photo, view).mask)


def test_a_photo_without_mask_is_not_decoded_for_its_mask(tmp_path):
    jpeg = save(tmp_path, "a.jpg", np.zeros((20, 20, 3), np.uint8))
    png = save(tmp_path, "b.png", np.zeros((20, 20, 3), np.uint8))
    assert known_without_pixels(Photo(jpeg))
    assert known_without_pixels(Photo(png))
    assert not known_without_pixels(alpha_photo(tmp_path))
    jpeg.write_bytes(b"damaged")
    assert not mask_square(Photo(jpeg), View(20, GREY)).mask.any()


def test_a_wholly_transparent_photo_is_refused(tmp_path):
    path = save(tmp_path, "a.png", np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: its alpha channel hides all of it"):
        photo_square(Photo(path), View(9, GREY))


def test_photos_are_turned_as_their_exif_says(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = 255  # left
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[274] = 6  # shown rotated clockwise: left becomes top
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert image_size(tmp_path / "a.jpg") == (40, 20)
    shown = read_rgb(tmp_path / "a.jpg")
    assert shown.shape == (40, 20, 3)
    assert shown[:8].mean() > 240
    assert shown[14:].mean() < 15


def test_sixteen_bit_grey_keeps_its_upper_eight_bits(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    assert (read_rgb(path) == 40000 >> 8).all()


@pytest.mark.parametrize("symmetry", range(8))
def test_the_eight_symmetries_move_boxes_with_pixels(symmetry):
    pixels, boxes = turned(*square(), symmetry)
    assert boxes.tolist()[0] == box_of(pixels)


def test_all_eight_symmetries_differ():
    pixels = torch.arange(3 * 16, dtype=torch.uint8).reshape(3, 4, 4)
    seen = {tuple(turned(pixels, torch.zeros(0, 4), s)[0].flatten().tolist()) for s in range(8)}
    assert len(seen) == 8


def test_affine_changes_keep_box_and_object_together():
    pixels, boxes = square(96)
    for seed in range(40):
        with seeded(seed):
            moved, after, left = augment_frame(
                pixels, boxes, Strength(affine=1.0), GREY, hflip=True
            )
        if not left.all():
            continue
        found = box_of(moved)
        assert after[0].tolist() == pytest.approx(found, abs=4)  # a turned box encloses


def test_boxes_that_are_hardly_visible_go():
    before = torch.tensor(
        [[-80.0, 0, 20, 50], [-60, 0, 40, 50], [10, 10, 13.5, 40], [10, 10, 14, 40]]
    )
    clipped = before.clamp(0, 64)
    assert visible(before, clipped).tolist() == [False, True, False, True]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_changes_depend_on_the_seed_alone_and_leave_torchs_generator_as_it_was(stage):
    pixels, boxes = square()
    state = torch.random.get_rng_state()
    made = []
    for seed in (5, 5, 6, 7, 8):
        with seeded(seed):
            made.append(augment_frame(pixels, boxes, STAGES[stage], GREY, hflip=True)[0])
    assert made[0].equal(made[1])
    assert any(not made[0].equal(other) for other in made[2:])
    assert torch.random.get_rng_state().equal(state)
    assert pixels.equal(square()[0])  # the frame that is kept is not written to


def test_a_later_stage_changes_fewer_frames():
    pixels, boxes = square()
    changed = []
    for stage in (1, 2, 3):
        count = 0
        for seed in range(40):
            with seeded(seed):
                strength = STAGES[stage]
                out = augment_frame(pixels, boxes, strength, GREY, hflip=False)[0]
            count += not out.equal(pixels)
        changed.append(count)
    assert changed[0] > changed[1] > changed[2] > 4


def test_without_mirror_images_no_change_is_one():
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels[:, 0, 1] = 255  # its mirror image is no rotation of it
    legal = {tuple(turned(pixels, torch.zeros(0, 4), s)[0].flatten().tolist()) for s in range(4)}
    for seed in range(60):
        with seeded(seed):
            strength = Strength(turn=0.7, mirror=1.0)
            made = augment_frame(pixels, torch.zeros(0, 4), strength, GREY, hflip=False)[0]
        assert tuple(made.flatten().tolist()) in legal


def test_a_black_body_is_as_red_or_blue_as_published():
    """Charity's table of sRGB values (CIE 1931, D65) gives these at 3000, 10000 and 6500 K."""

    def coded(kelvin):
        values = np.array(black_body_rgb(kelvin))
        return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)

    assert coded(3000) * 255 == pytest.approx([255, 180, 107], abs=4)
    assert coded(10000) * 255 == pytest.approx([201, 218, 255], abs=4)
    assert coded(6500) * 255 == pytest.approx([255, 249, 253], abs=4)


def test_light_of_daylight_changes_nothing_and_a_cold_one_makes_bluer():
    pixels = torch.full((3, 4, 4), 120, dtype=torch.uint8)
    assert lit_by(pixels, 6500).equal(pixels)
    red, green, blue = lit_by(pixels, 11000)[:, 0, 0].tolist()
    assert red < green == 120 < blue


def test_photo_and_mask_change_together(tmp_path):
    shown = photo_square(alpha_photo(tmp_path), View(40, GREY))
    for seed in range(30):
        with seeded(seed):
            pixels, mask = augment_photo(shown.pixels, shown.mask, GREY, strong=True, hflip=True)
        inside = pixels[0].float()[mask].mean() - pixels[1].float()[mask].mean()
        outside = pixels[0].float()[~mask].mean() - pixels[1].float()[~mask].mean()
        assert inside > 60 > outside + 40  # red lies where the mask is


def test_a_pasted_object_lies_in_its_box_and_nowhere_else(tmp_path):
    cut = cut_out(alpha_photo(tmp_path), 100)
    assert cut.rgb.shape == (20, 20, 3)
    frame = torch.full((3, 96, 96), 30, dtype=torch.uint8)
    sizes = []
    for seed in range(40):
        with seeded(seed):
            pixels, box = paste(frame, cut, (16, 40), hflip=True)
        x1, y1, x2, y2 = (int(v) for v in box)
        assert 0 <= x1 < x2 <= 96
        assert 0 <= y1 < y2 <= 96
        red = pixels[0].int() - pixels[1].int() > 155  # more than half of it
        assert int(red[y1:y2, x1:x2].sum()) == int(red.sum()) > 0
        outside = pixels.clone()
        outside[:, max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3] = 30
        assert outside.equal(frame)
        sizes.append(max(x2 - x1, y2 - y1))
    assert min(sizes) >= 14
    assert max(sizes) <= 40 * 1.4  # tilted
    assert frame.unique().tolist() == [30]


def test_a_photo_without_mask_cannot_be_cut_out(tmp_path):
    path = save(tmp_path, "a.jpg", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="nothing says which of its pixels are the object"):
        cut_out(Photo(path, None, (1, 1, 5, 5)), 20)
