"""Overlays: colours by hand, original pixels, and a fixed sample of pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.report.pictures import (
    FALSE,
    HIT,
    MISSED,
    PictureBook,
    file_stem,
    original_image,
    overlay,
)
from mlkit_core.types import (
    Batch,
    BoxPrediction,
    Letterbox,
    MaskPrediction,
    MaskTarget,
    Prediction,
    SampleMeta,
)


def batch_of(image, mask=None, key="a", **meta):
    size = meta.pop("size", tuple(image.shape[-2:]))
    return Batch(
        inputs={"image": image[None]},
        meta=(SampleMeta(key=key, size=size, **meta),),
        target=None if mask is None else MaskTarget(mask[None]),
    )


def test_hits_false_alarms_and_misses_have_their_colours():
    # One row: hit, false alarm, miss, nothing; black below, so 0.65 of each colour is left.
    found = torch.tensor([[0.9, 0.9, 0.1, 0.1]])
    batch = batch_of(torch.zeros(3, 1, 4), mask=torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    picture = overlay(MaskPrediction(found), original_image(batch, 0), batch, 0)
    expected = [[round(0.65 * value) for value in colour] for colour in (HIT, FALSE, MISSED)]
    assert picture[0].tolist() == [*expected, [0, 0, 0]]


def test_without_truth_everything_found_has_the_colour_of_a_hit():
    batch = batch_of(torch.ones(3, 1, 2))
    prediction = MaskPrediction(torch.tensor([[0.9, 0.1]]))
    picture = overlay(prediction, original_image(batch, 0), batch, 0)
    blended = [round(0.35 * 255 + 0.65 * value) for value in HIT]
    assert picture[0].tolist() == [blended, [255, 255, 255]]


def test_of_several_classes_all_but_the_background_are_found():
    probabilities = torch.tensor([[[0.6, 0.2]], [[0.3, 0.1]], [[0.1, 0.7]]])  # [C, 1, 2]
    batch = batch_of(torch.zeros(3, 1, 2))
    picture = overlay(MaskPrediction(probabilities), original_image(batch, 0), batch, 0)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 1].tolist() == [round(0.65 * value) for value in HIT]


def test_boxes_are_outlined_where_they_lie():
    batch = batch_of(torch.zeros(3, 40, 40))
    boxes = torch.tensor([[4.0, 20.0, 30.0, 36.0]])
    prediction = BoxPrediction(boxes, torch.tensor([0.5]), torch.tensor([0]))
    picture = overlay(prediction, original_image(batch, 0), batch, 0)
    assert tuple(picture[36, 10]) == HIT
    assert tuple(picture[25, 30]) == HIT
    assert tuple(picture[33, 27]) == (0, 0, 0)  # inside, beside the score
    assert not picture[:19].any()


def test_a_kind_of_prediction_that_is_unknown_leaves_the_image_as_it_is():
    batch = batch_of(torch.full((3, 2, 2), 0.5))
    image = original_image(batch, 0)
    assert np.array_equal(overlay(Prediction(), image, batch, 0), np.full((2, 2, 3), 128))


def test_padding_is_cut_off_and_the_original_size_comes_back():
    # 2 x 4 original pixels, halved to 1 x 2, padded below and to the right to 4 x 4.
    image = torch.ones(3, 4, 4)
    image[:, :1, :2] = 0.2
    batch = batch_of(image, size=(2, 4), letterbox=Letterbox(scale=0.5, size=(1, 2)))
    assert np.array_equal(original_image(batch, 0), np.full((2, 4, 3), 51))


def test_padding_above_and_to_the_left_is_cut_off_too():
    image = torch.ones(3, 4, 4)
    image[:, 2:3, 1:3] = 0.2
    box = Letterbox(scale=0.5, size=(1, 2), offset=(2, 1))
    batch = batch_of(image, size=(2, 4), letterbox=box)
    assert np.array_equal(original_image(batch, 0), np.full((2, 4, 3), 51))


def test_a_true_mask_is_brought_back_to_original_pixels_too():
    mask = torch.zeros(4, 4)
    mask[0, 1] = 1.0  # the right half of the original; the rest is padding
    box = Letterbox(scale=0.5, size=(1, 2))
    batch = batch_of(torch.zeros(3, 4, 4), mask=mask, size=(2, 4), letterbox=box)
    nothing = MaskPrediction(torch.zeros(2, 4))
    picture = overlay(nothing, original_image(batch, 0), batch, 0)
    missed = [round(0.65 * value) for value in MISSED]
    assert picture.tolist() == [[[0, 0, 0], [0, 0, 0], missed, missed]] * 2


def test_values_beyond_0_to_1_are_clipped_not_wrapped():
    batch = batch_of(torch.tensor([-1.0, 2.0]).expand(3, 1, 2))
    assert original_image(batch, 0)[0, :, 0].tolist() == [0, 255]


def test_a_batch_without_images_has_no_picture():
    batch = Batch(inputs={"view": torch.zeros(1, 2)}, meta=(SampleMeta(key="a", size=(2, 2)),))
    assert original_image(batch, 0) is None


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("P1/frame 07", "P1_frame_07"),
        ("...", "item"),
        ("x" * 200, "x" * 80),
    ],
)
def test_file_names_from_keys_leave_no_folder(key, stem):
    assert file_stem(key) == stem


def rank(key):
    return hashlib.blake2b(key.encode(), digest_size=7).digest()


def fill(folder, keys, limit):
    book = PictureBook(folder, limit)
    for key in keys:
        batch = batch_of(torch.zeros(3, 2, 2), key=key, extra={"angle": 30})
        book.add(batch, [MaskPrediction(torch.zeros(2, 2))])
    return book.close()


def test_the_same_samples_are_kept_in_whatever_order_they_come(tmp_path):
    keys = [f"frame-{n}" for n in range(20)]
    fill(tmp_path / "book", keys, 3)
    first = json.loads((tmp_path / "book" / "index.json").read_text())
    fill(tmp_path / "book", keys[::-1], 3)
    again = json.loads((tmp_path / "book" / "index.json").read_text())
    assert [entry["key"] for entry in first] == sorted(sorted(keys, key=rank)[:3])
    assert first == again
    assert first[0]["caption"] == "angle 30"


def test_a_picture_shows_the_image_beside_its_overlay(tmp_path):
    book = PictureBook(tmp_path / "book", 1)
    book.add(batch_of(torch.zeros(3, 2, 2)), [MaskPrediction(torch.ones(2, 2))])
    (path,) = book.close()
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (2, 4, 3)
    assert not pixels[:, :2].any()
    assert pixels[0, 3].tolist() == [round(0.65 * value) for value in HIT]


def test_a_book_with_limit_zero_keeps_nothing_and_removes_the_old(tmp_path):
    fill(tmp_path / "book", ["a"], 1)
    assert fill(tmp_path / "book", ["a", "b"], 0) == []
    assert not (tmp_path / "book").exists()


@dataclass(frozen=True)
class Clip(Prediction):
    """Several of them make one picture."""

    grey: int

    @staticmethod
    def draw_item(predictions, batch):
        return np.full((2, len(predictions), 3), predictions[0].grey, np.uint8)


def test_an_item_may_be_drawn_by_its_predictions_together(tmp_path):
    book = PictureBook(tmp_path / "pictures", limit=1)
    book.add(Batch(inputs={}, meta=(SampleMeta(key="clip"),)), [Clip(7), Clip(8), Clip(9)])
    (path,) = book.close()
    assert np.asarray(Image.open(path)).tolist() == [[[7, 7, 7]] * 3] * 2
