"""Decoding and suppression: by hand, and against the installed library on real images."""

import numpy as np
import pytest
import torch

from mlkit_cluster.images.letterbox import fit, letterbox
from mlkit_cluster.images.pixels import read_image, read_input
from mlkit_cluster.kernel.masks import decode_mask
from mlkit_cluster.kernel.raw import RawOutput
from mlkit_cluster.yolo.adapter import load_detector
from mlkit_cluster.yolo.detections import Detections, anchor_centres, decode_boxes, detect, place


def raw_of(boxes_xyxy, scores, classes=2, bins=16):
    """A raw output at 64 px with strides 8, 16, 32 whose first anchors speak, the rest are silent.

    Each box is given in strides around its anchor, as whole numbers, so that one bin tells each.
    """
    anchors = 64 + 16 + 4
    logits = torch.zeros(1, 4 * bins, anchors)
    values = torch.full((1, classes, anchors), -20.0)
    for place_, (box, (label, score)) in enumerate(zip(boxes_xyxy, scores, strict=True)):
        for side, distance in enumerate(box):
            logits[0, side * bins + distance, place_] = 60
        values[0, label, place_] = torch.logit(torch.tensor(score))
    return RawOutput(logits, values, None, None, {})


def found_in(raw, **changes):
    options = {"conf": 0.25, "iou": 0.45, "max_det": 300} | changes
    return detect(raw, 64, (8, 16, 32), **options)[0]


def test_anchors_lie_in_the_middle_of_their_cells_level_by_level():
    centres, strides = anchor_centres(64, (8, 16, 32))
    assert centres[[0, 1, 8, 63, 64, 80, 83]].tolist() == [
        [4, 4], [12, 4], [4, 12], [60, 60], [8, 8], [16, 16], [48, 48],
    ]  # fmt: skip
    assert strides[[0, 64, 80]].tolist() == [8, 16, 32]


def test_a_side_is_the_mean_of_its_bins():
    logits = torch.full((1, 64, 84), -100.0)
    logits[0, [0, 16, 32, 48], 0] = 0.0  # all sides certainly 0
    logits[0, [2, 4], 0] = 0.0  # the left: 0, 2 or 4 with equal chances
    boxes = decode_boxes(logits, 64, (8, 16, 32))
    torch.testing.assert_close(boxes[0, 0], torch.tensor([4.0 - 2 * 8, 4, 4, 4]))


def test_a_single_bin_is_the_distance_itself():
    sides = torch.tensor([0.5, 0.25, 1.5, 0.0]).view(1, 4, 1).expand(1, 4, 84)
    assert decode_boxes(sides, 64, (8, 16, 32))[0, 0].tolist() == [0, 2, 16, 4]


def test_boxes_suppress_their_own_class_alone_and_come_by_confidence():
    # Around (4, 4) and (12, 4): 4..20 and 4..28 wide, both 4..20 high, so that IoU is 2/3.
    boxes = [(0, 0, 2, 2), (1, 0, 2, 2)]
    raw = raw_of(boxes, [(0, 0.5), (0, 0.9)])
    found = found_in(raw)
    assert found.scores.tolist() == pytest.approx([0.9])
    two = raw_of(boxes, [(0, 0.5), (1, 0.9)])
    assert found_in(two).labels.tolist() == [1, 0]
    assert found_in(raw, iou=0.67).labels.tolist() == [0, 0]


def test_an_anchor_speaks_for_its_best_class_and_above_the_threshold_alone():
    raw = raw_of([(0, 0, 1, 1)], [(0, 0.6)])
    raw.scores[0, 1, 0] = torch.logit(torch.tensor(0.8))
    found = found_in(raw)
    assert (found.labels.tolist(), found.scores.tolist()) == ([1], pytest.approx([0.8]))
    assert len(found_in(raw, conf=0.81).labels) == 0


def test_equal_scores_keep_the_order_of_the_anchors_and_the_most_are_kept():
    found = found_in(raw_of([(0, 0, 1, 1)] * 6, [(0, 0.7)] * 6), iou=0.9, max_det=4)
    assert found.boxes_input[:, 0].tolist() == [4, 12, 20, 28]


def test_placing_clips_to_the_image_and_drops_what_has_no_extent():
    box = fit((100, 200), 64)  # rows 16 to 48 show the image
    boxes = np.array([[0, 0, 32, 32], [10, 0, 20, 16], [70, 20, 80, 30]], np.float32)
    found = Detections(boxes, boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 2]))
    placed = place(found, box, (100, 200))
    assert placed.labels.tolist() == [0]
    assert placed.boxes_input.tolist() == [[0, 16, 32, 32]]
    assert placed.boxes.tolist() == [[0, 0, 100, 50]]


def test_no_detection_is_an_empty_answer(tiny_seg_detector_file):
    detector = load_detector(tiny_seg_detector_file, 64, "cpu")
    found = detector.detections(detector(torch.rand(1, 3, 64, 64)), conf=1.0)[0]
    assert (found.boxes.shape, found.masks) == ((0, 4), ())
    assert place(found, fit((10, 20), 64), (10, 20)).boxes.shape == (0, 4)


def test_detections_do_not_depend_on_batch_mates(tiny_seg_detector_file, painted_images):
    detector = load_detector(tiny_seg_detector_file, 96, "cpu")
    paths = sorted((painted_images / "images").glob("*.png"))
    images = torch.stack([read_input(path, 96) for path in paths]) / 255
    together = detector.detections(detector(images))
    assert sum(len(one.labels) > 0 for one in together) >= 6
    for index, one in enumerate(together):
        alone = detector.detections(detector(images[index : index + 1]))[0]
        assert alone.labels.tolist() == one.labels.tolist()
        assert alone.boxes_input.tolist() == one.boxes_input.tolist()
        assert alone.masks == one.masks


def theirs(yolo, path, size):
    """The installed library's prediction on our pixels (its JPEG decoder may differ by a bit)."""
    pixels = np.ascontiguousarray(read_image(path)[..., ::-1])
    options = {"imgsz": size, "rect": False, "conf": 0.25, "iou": 0.45, "verbose": False}
    return yolo.predict(pixels, **options)[0], pixels.shape[:2]


def rebuilt(shared_data, name):
    from ultralytics import YOLO

    stored = torch.load(shared_data / f"weights/{name}_dequant_sd.pt", weights_only=True)
    yolo = YOLO(stored["yaml"])
    yolo.model.fuse()
    yolo.model.load_state_dict({key: v.float() for key, v in stored["state_dict"].items()})
    yolo.model.eval()
    return yolo


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-seg"])
def test_detections_of_real_images_equal_the_installed_library_s(shared_data, name):
    size = 320
    yolo = rebuilt(shared_data, name)
    detector = load_detector(shared_data / f"weights/{name}_dequant_sd.pt", size, "cpu")
    count = 0
    for path in sorted((shared_data / "coco/images").rglob("*.jpg"))[:20]:
        result, shape = theirs(yolo, path, size)
        image = read_input(path, size)[None] / 255
        found = detector.detections(detector(image))[0]
        placed = place(found, fit(shape, size), shape)
        order = result.boxes.conf.argsort(descending=True, stable=True)
        assert placed.labels.tolist() == result.boxes.cls[order].int().tolist()
        np.testing.assert_allclose(placed.scores, result.boxes.conf[order], atol=1e-4)
        np.testing.assert_allclose(placed.boxes, result.boxes.xyxy[order], atol=0.1)
        count += len(order)
    assert count > 30


def test_masks_equal_the_installed_library_s_at_a_quarter(shared_data):
    from ultralytics.utils.ops import process_mask

    size = 320
    path = shared_data / "weights/yolov8n-seg_dequant_sd.pt"
    detector = load_detector(path, size, "cpu")
    image = shared_data / "coco/images/train2017/000000000009.jpg"
    square = letterbox(read_image(image), size)[0]
    raw = detector(torch.from_numpy(square).permute(2, 0, 1)[None] / 255)
    found = detector.detections(raw)[0]
    boxes = torch.from_numpy(found.boxes_input)
    centres = decode_boxes(raw.boxes, size, detector.strides, detector.bins)[0]
    anchors = [int((centres - box).abs().sum(1).argmin()) for box in boxes]
    coefs = raw.coefs[0, :, anchors].T
    expected = process_mask(raw.protos[0], coefs, boxes, (size, size), upsample=False)
    ours = np.stack([decode_mask(blob) for blob in found.masks])
    assert len(ours) >= 3
    assert (ours == expected.numpy().astype(bool)).all()
