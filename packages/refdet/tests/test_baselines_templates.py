"""Template matching: the coefficient against NumPy and OpenCV, and objects that are found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec, Letterbox, SampleMeta
from mlkit_refdet.baselines.correlation import Templates, cut_templates, masked_ncc
from mlkit_refdet.baselines.matches import MatchedBoxes, decode_matches, local_peaks
from mlkit_refdet.baselines.pixels import Pixels
from mlkit_refdet.baselines.template_match import TemplateMatch
from mlkit_refdet.features import AskedFeatures

PLAIN = FeatureSpec(channels={"p0": 3}, strides={"p0": 1})
PHOTOS = FeatureSpec(channels={"p0": 3}, strides={"p0": 1}, lead=("class", "shot"))
ASKED = FeatureSpec(vector_dim=2, type=AskedFeatures)


def texture(height: int, width: int, seed: int, cell: int = 4) -> torch.Tensor:
    """Smooth random colours `[3, H, W]`, so that a shift of a pixel does not lose them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // cell + 1, width // cell + 1, generator=generator)
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=True)[0]


def templates_of(seed: int = 0, side: int = 9) -> Templates:
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand(2, side, side, generator=generator) > 0.4).float()
    pixels = torch.stack([texture(side, side, seed + i + 1, 3) for i in range(2)])
    return Templates(pixels, masks, torch.zeros(2, 4), side)


def test_the_coefficient_is_numpys_correlation_of_the_masked_colour_values():
    image, templates = texture(24, 31, 5), templates_of()
    scores = masked_ncc(image, templates)
    assert scores.shape == (2, 24, 31)
    for which in range(2):
        inside = templates.masks[which].bool()
        own = templates.pixels[which][:, inside].flatten()
        for y, x in ((4, 4), (10, 17), (19, 26)):
            patch = image[:, y - 4 : y + 5, x - 4 : x + 5][:, inside].flatten()
            theirs = np.corrcoef(own, patch)[0, 1]
            assert scores[which, y, x] == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_the_coefficient_of_grey_images_is_opencvs(masked):
    grey = texture(30, 40, 2)[:1]
    templates = templates_of(3)
    own = templates.pixels[:1, :1]
    mask = templates.masks[:1] if masked else torch.ones(1, 9, 9)
    scores = masked_ncc(
        grey.expand(3, -1, -1), Templates(own.expand(-1, 3, -1, -1), mask, templates.boxes[:1], 9)
    )
    extra = {"mask": mask[0].numpy()} if masked else {}
    theirs = cv2.matchTemplate(grey[0].numpy(), own[0, 0].numpy(), cv2.TM_CCOEFF_NORMED, **extra)
    np.testing.assert_allclose(scores[0, 4:-4, 4:-4].numpy(), theirs, atol=2e-4)


def test_the_contrast_term_is_worked_by_hand_and_leaves_equal_contrast_alone():
    templates = templates_of()
    canvas = torch.full((3, 9, 9), 0.5)
    for gain, factor in ((1.0, 1.0), (0.5, 0.8), (2.0, 0.8)):  # 2 g / (1 + g^2)
        image = canvas + gain * (templates.pixels[0] - 0.5)
        plain = masked_ncc(image, templates)[0, 4, 4]
        weighed = masked_ncc(image, templates, contrast=True)[0, 4, 4]
        assert plain == pytest.approx(1.0, abs=1e-4)
        assert weighed == pytest.approx(factor, abs=1e-3)


def test_even_colours_correlate_with_nothing():
    templates = templates_of()
    assert not masked_ncc(torch.full((3, 20, 20), 0.3), templates).any()
    even = Templates(torch.full((1, 3, 9, 9), 0.6), torch.ones(1, 9, 9), torch.zeros(1, 4), 9)
    assert not masked_ncc(texture(20, 20, 1), even).any()


def test_a_cut_out_is_the_masks_box_in_every_rotation_and_a_half_turn_turns_its_pixels():
    photo, mask = texture(40, 40, 4), torch.zeros(40, 40)
    mask[5:25, 10:20] = 1  # 20 high, 10 wide
    cut = cut_templates(photo[None], mask[None], side=20, rotations=4)
    upright, lying = [-5.0, -10.0, 5.0, 10.0], [-10.0, -5.0, 10.0, 5.0]
    assert cut.boxes.tolist() == [upright, lying, upright, lying]
    assert cut.pixels.shape == (4, 3, 31, 31)
    torch.testing.assert_close(cut.pixels[2], cut.pixels[0].rot90(2, (1, 2)), atol=1e-4, rtol=0)
    # At the size of the photo nothing is resampled but by half a pixel.
    shown, true = cut.pixels[0, :, 6:25, 11:20], photo[:, 5:25, 10:20]
    half = (true[:, 1:, 1:] + true[:, 1:, :-1] + true[:, :-1, 1:] + true[:, :-1, :-1]) / 4
    torch.testing.assert_close(shown, half, atol=1e-4, rtol=0)


def test_the_box_of_a_turned_object_is_that_of_its_mask_not_of_its_photo():
    photo, mask = texture(40, 40, 4), torch.zeros(40, 40)
    mask[10:30, 10:30] = torch.ones(20, 20).tril()  # a triangle, its right angle below left
    turned = cut_templates(photo[None], mask[None], side=20, rotations=8).boxes[1].tolist()
    # By 45 degrees its long side lies level through the middle: one half of the square's box.
    assert turned[2] - turned[0] == pytest.approx(20 * 2**0.5, abs=1.5)
    assert turned[3] - turned[1] == pytest.approx(20 * 2**0.5 / 2, abs=1.5)
    assert min(abs(turned[1]), abs(turned[3])) < 1


def test_a_photo_without_a_mask_is_all_object():
    photo = texture(30, 30, 4)
    cut = cut_templates(photo[None], torch.zeros(1, 30, 30), side=15, rotations=1)
    assert cut.boxes.tolist() == [[-7.5, -7.5, 7.5, 7.5]]


def photos_of(objects: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One photo each: the object in the middle of a grey square, and its mask."""
    photos, masks = (
        torch.full((len(objects), 3, 48, 48), 114 / 255),
        torch.zeros(len(objects), 48, 48),
    )
    for row, pixels in enumerate(objects):
        height, width = pixels.shape[1:]
        top, left = (48 - height) // 2, (48 - width) // 2
        photos[row, :, top : top + height, left : left + width] = pixels
        masks[row, top : top + height, left : left + width] = 1
    return photos, masks


def scene(objects: list[torch.Tensor], **options) -> tuple[TemplateMatch, dict]:
    """A head, and a scope: object 0 at (20, 12), object 1 at (60, 40), on a noisy ground."""
    image = texture(80, 96, 9, 6) * 0.4 + 0.3
    for pixels, (x, y) in zip(objects, ((20, 12), (60, 40)), strict=True):
        image[:, y : y + pixels.shape[1], x : x + pixels.shape[2]] = pixels
    photos, masks = photos_of(objects)
    inputs = {"query": PLAIN, "support": PHOTOS, "asked": ASKED}
    head = TemplateMatch(
        inputs, "query", sizes=(16.0, 24.0, 32.0), template_px=12, max_boxes=8, **options
    )
    scope = {
        "query": Features(maps={"p0": image[None]}),
        "support": Features(
            maps={"p0": photos}, mask=masks, valid=torch.ones(2, 1, dtype=torch.bool)
        ),
        "asked": AskedFeatures(vector=torch.tensor([[1.0, 0.0]])),
    }
    return head, scope


OBJECTS = [texture(24, 18, 21), texture(16, 24, 22)]
META = (SampleMeta(key="image"),)


def test_both_objects_are_found_where_they_are_and_each_under_its_own_class():
    head, scope = scene(OBJECTS, rotations=1)
    [found] = head.decode(head(scope), META)
    for label, true in ((0, [20, 12, 38, 36]), (1, [60, 40, 84, 56])):
        boxes, scores = found.boxes_xyxy[found.labels == label], found.scores[found.labels == label]
        assert scores[0] > 0.85
        torch.testing.assert_close(
            boxes[0], torch.tensor(true, dtype=torch.float32), atol=2, rtol=0
        )
        assert len(scores) < 2 or scores[1] < 0.8


def test_only_what_is_asked_is_searched_for():
    head, scope = scene(OBJECTS, rotations=1)
    scope["asked"] = AskedFeatures(vector=torch.tensor([[-1.0, 0.0]]))
    output = head(scope)
    assert not output.scores[0, 0].any()
    assert output.scores[0, 1].max() > 0.85
    [found] = head.decode(output, META)
    assert set(found.labels.tolist()) == {0}


def test_a_turned_object_is_found_by_its_rotation_alone():
    upright = texture(16, 24, 22)
    head, scope = scene([OBJECTS[0], upright.rot90(1, (1, 2))], rotations=1)
    photos, masks = photos_of([OBJECTS[0], upright])
    scope["support"] = Features(maps={"p0": photos}, mask=masks, valid=scope["support"].valid)
    turning, _ = scene(OBJECTS, rotations=4)
    assert head(scope).scores[0, 0].max() < 0.8
    [found] = turning.decode(turning(scope), META)
    best = found.boxes_xyxy[found.labels == 1][0]
    true = torch.tensor([60.0, 40.0, 76.0, 64.0])
    torch.testing.assert_close(best, true, atol=2.5, rtol=0)


def test_photos_that_are_padding_are_no_references():
    head, scope = scene(OBJECTS, rotations=1)
    support = scope["support"]
    padded = torch.tensor([[True], [False]])
    scope["support"] = Features(maps=support.maps, mask=support.mask, valid=padded)
    output = head(scope)
    assert not output.scores[0, 0].any()  # class 1 has no photo
    assert output.scores[0, 1].max() > 0.85


def test_boxes_go_back_to_original_pixels_and_are_suppressed_within_a_class_alone():
    boxes = torch.tensor([[10.0, 20, 30, 40], [11, 20, 31, 40], [50, 60, 90, 100]])
    output = MatchedBoxes(
        boxes_xyxy=boxes.repeat(1, 2, 1, 1),
        scores=torch.tensor([[[0.9, 0.8, 0.0], [0.7, 0.2, 0.6]]]),
        asked=torch.tensor([[3, 1]]),
    )
    meta = SampleMeta(
        key="a", size=(44, 40), letterbox=Letterbox(scale=2.0, size=(88, 80), offset=(10, 4))
    )
    [found] = decode_matches(output, (meta,), nms_iou=0.5, min_score=0.1)
    assert found.labels.tolist() == [3, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.boxes_xyxy[0].tolist() == [3.0, 5.0, 13.0, 15.0]
    assert found.boxes_xyxy[2].tolist() == [23.0, 25.0, 40.0, 44.0]  # cut at the border


def test_peaks_are_local_maxima_and_short_lists_are_filled_with_zero():
    scores = torch.zeros(1, 5, 6)
    scores[0, 1, 1], scores[0, 1, 2], scores[0, 4, 5] = 0.5, 0.4, 0.9
    values, index = local_peaks(scores, radius=1, most=40)
    assert values.shape == (1, 40)
    assert values[0, :3].tolist() == pytest.approx([0.9, 0.5, 0.0])
    assert index[0, :2].tolist() == [4 * 6 + 5, 1 * 6 + 1]


def test_template_matching_says_which_encoder_it_needs():
    maps = FeatureSpec(channels={"p3": 8}, strides={"p3": 8})
    with pytest.raises(BuildError, match="the map 'p0' of encoder pixels"):
        TemplateMatch({"query": maps, "support": PHOTOS}, "query")
    with pytest.raises(BuildError, match="queries are plain rows"):
        TemplateMatch({"support": PHOTOS, "query": PLAIN}, "support")


def test_without_the_role_asked_every_class_is_searched_for():
    _, scope = scene(OBJECTS, rotations=1)
    plain = TemplateMatch({"query": PLAIN, "support": PHOTOS}, "query", rotations=1, max_boxes=2)
    del scope["asked"]
    assert plain(scope).asked.tolist() == [[0, 1]]


def test_pixels_gives_the_image_itself():
    image = torch.rand(1, 3, 20, 30)
    assert Pixels()(image).maps["p0"] is image
