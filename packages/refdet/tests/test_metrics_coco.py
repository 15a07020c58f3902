"""Average precision against pycocotools and against COCO's published figures."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlkit_core.errors import DataError, TrainingError
from mlkit_core.types import Batch, BoxPrediction, BoxTarget, Letterbox, SampleMeta
from mlkit_refdet.metrics.box_map import BoxMap
from mlkit_refdet.metrics.coco import coco_scores
from mlkit_refdet.metrics.frames import AskedFrame, Boxes
from mlkit_refdet.targets import ReferenceTarget

CLASSES = 4


def batch_of(  # one image, boxes in original pixels
    true, labels, *, asked=(0,), class_ids=(0, 1), key="image", letterbox=None, extra=None, **more
):
    """A batch of one image whose target is `true [M, 4]`."""
    target = ReferenceTarget(
        boxes_xyxy=torch.tensor(true, dtype=torch.float32).reshape(1, -1, 4),
        labels=torch.tensor(labels).reshape(1, -1),
        class_ids=torch.tensor(class_ids),
        category_ids=torch.tensor(class_ids),
        background=torch.tensor([more.pop("background", False)]),
    )
    meta = SampleMeta(key=key, letterbox=letterbox, extra=extra or {})
    inputs = {} if asked is None else {"asked": torch.tensor([list(asked)], dtype=torch.float32)}
    return Batch(inputs=inputs, meta=(meta,), target=target, **more)


def boxes_of(xyxy, scores, labels):
    return BoxPrediction(
        torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.long),
    )


def random_frames(count: int, seed: int = 0) -> list[AskedFrame]:
    """Images with objects of all sizes, found boxes near some of them, and many that are not."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        asked = tuple(sorted(rng.choice(CLASSES, rng.integers(1, CLASSES + 1), replace=False)))
        many = int(rng.integers(0, 6))
        low, side = rng.uniform(0, 300, (many, 2)), np.exp(rng.uniform(2, 5.3, (many, 2)))
        true = Boxes.of(np.c_[low, low + side], rng.choice(asked, many))
        near = true.xyxy + rng.normal(0, 0.08, (many, 4)) * np.tile(side, 2)
        noise = rng.uniform(0, 300, (8, 2))
        xyxy = np.r_[near, np.c_[noise, noise + rng.uniform(5, 120, (8, 2))]]
        xyxy[:, 2:] = np.maximum(xyxy[:, 2:], xyxy[:, :2] + 1)
        classes = np.r_[true.classes, rng.choice(asked, 8)]
        scores = np.round(rng.uniform(0, 1, len(xyxy)), 2)  # ties happen
        order = np.argsort(-scores, kind="stable")
        found = Boxes.of(xyxy, classes, scores)[order]
        frames.append(AskedFrame(f"{index:03d}", tuple(map(int, asked)), true, found))
    return frames


def by_pycocotools(frames: list[AskedFrame]) -> np.ndarray:
    """pycocotools' twelve figures, over images and annotations written down here."""
    annotations, results = [], []
    for image, frame in enumerate(frames, 1):
        for (x0, y0, x1, y1), label in zip(frame.true.xyxy, frame.true.classes, strict=True):
            box = [x0, y0, x1 - x0, y1 - y0]
            common = {"image_id": image, "category_id": int(label) + 1, "bbox": box}
            more = {"id": len(annotations) + 1, "iscrowd": 0, "area": box[2] * box[3]}
            annotations.append(common | more)
        found = frame.found
        rows = zip(found.xyxy, found.classes, found.scores, strict=True)
        for (x0, y0, x1, y1), label, score in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            common = {"image_id": image, "category_id": int(label) + 1, "bbox": box}
            results.append(common | {"score": float(score)})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(frames) + 1)],
        "annotations": annotations,
        "categories": [{"id": label + 1} for label in range(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        task = COCOeval(truth, truth.loadRes(results), "bbox")
        task.evaluate()
        task.accumulate()
        task.summarize()
    return task.stats


def test_all_twelve_figures_equal_pycocotools_on_fifty_random_images():
    frames = random_frames(50)
    scores = coco_scores(frames)
    ours = [scores.ap(), scores.ap(level=0), scores.ap(level=5)]
    ours += [scores.ap(size) for size in ("small", "medium", "large")]
    ours += [scores.ar(most=most) for most in range(3)]
    ours += [scores.ar(size) for size in ("small", "medium", "large")]
    theirs = by_pycocotools(frames)
    assert 0.05 < theirs[0] < 0.9
    assert min(theirs) >= 0  # every size is there
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_box_ap_of_cocos_own_fixture_is_the_published_one():
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MLKIT_DATA", default)) / "metrics" / "coco_eval"
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set MLKIT_DATA")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    found = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    every = tuple(sorted(entry["id"] for entry in truth["categories"]))
    frames = []
    for image in sorted(entry["id"] for entry in truth["images"]):
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image]
        results = [entry for entry in found if entry["image_id"] == image]
        crowd = np.array([entry["iscrowd"] for entry in own], bool)
        scores = np.array([entry["score"] for entry in results])
        true = Boxes.of(_xyxy(own), [entry["category_id"] for entry in own], crowd=crowd)
        boxes = Boxes.of(_xyxy(results), [entry["category_id"] for entry in results], scores)
        frames.append(AskedFrame(f"{image:012d}", every, true, boxes))
    scores = coco_scores(frames)
    # val2014_fake_eval_res.txt, type=bbox: 0.505, 0.697, 0.573; AR 0.387, 0.594, 0.595
    assert scores.ap() == pytest.approx(0.5046, abs=5e-5)
    assert scores.ap(level=0) == pytest.approx(0.697, abs=5e-4)
    assert scores.ap(level=5) == pytest.approx(0.573, abs=5e-4)
    recalls = [scores.ar(most=most) for most in range(3)]
    assert recalls == pytest.approx([0.387, 0.594, 0.595], abs=5e-4)


def _xyxy(entries) -> np.ndarray:
    boxes = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    return np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]


def test_a_box_of_one_image_never_matches_an_object_of_another():
    metric = BoxMap()
    metric.update([boxes_of([[0, 0, 10, 10]], [0.9], [0])], batch_of([], [], key="empty"))
    metric.update([boxes_of([], [], [])], batch_of([[0, 0, 10, 10]], [0], key="missed"))
    assert metric.compute()["map50"] == 0.0


def test_a_box_in_an_image_asked_in_vain_halves_the_precision():
    metric = BoxMap()
    metric.update([boxes_of([[0, 0, 10, 10]], [0.9], [0])], batch_of([], [], key="empty"))
    hit = batch_of([[0, 0, 10, 10]], [0], key="hit")
    metric.update([boxes_of([[0, 0, 10, 10]], [0.8], [0])], hit)
    # One false alarm above one hit: precision 1/2 at every recall.
    assert metric.compute()["map50"] == pytest.approx(0.5)


def test_what_was_not_asked_of_an_image_counts_neither_as_true_nor_as_found():
    metric = BoxMap()
    batch = batch_of([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1], asked=(0, -1))
    found = boxes_of([[0, 0, 10, 10], [60, 60, 70, 70]], [0.5, 0.9], [0, 1])
    metric.update([found], batch)
    values = metric.compute()
    assert (values["map50"], values["objects"]) == (pytest.approx(1.0), 1.0)


def test_labels_are_translated_to_the_classes_of_the_data():
    metric = BoxMap(classes=("cup", "shoe", "hat"))
    for key, class_ids in (("a", (2, 0)), ("b", (0, 2))):
        label = class_ids.index(2)
        batch = batch_of([[0, 0, 10, 10]], [label], asked=None, class_ids=class_ids, key=key)
        metric.update([boxes_of([[0, 0, 10, 10]], [0.9], [label])], batch)
    rows = {row["key"]: row for row in metric.rows()}
    assert rows["hat"]["map50"] == 1.0
    assert (rows["cup"]["map50"], rows["cup"]["images_without"]) == ("", 2)
    assert "shoe" not in rows


def test_true_boxes_are_taken_back_to_original_pixels_before_their_size_is_judged():
    # 40 x 40 input pixels are 20 x 20 original ones: small, not medium.
    letterbox = Letterbox(scale=2.0, size=(100, 100), offset=(6, 4))
    metric = BoxMap()
    batch = batch_of([[24, 26, 64, 66]], [0], letterbox=letterbox)
    metric.update([boxes_of([[10, 10, 30, 30]], [0.9], [0])], batch)
    values = metric.compute()
    assert values["map_small"] == pytest.approx(1.0)
    assert "map_medium" not in values


def test_images_without_any_object_have_no_average_precision_instead_of_minus_one(caplog):
    metric = BoxMap()
    metric.update([boxes_of([[0, 0, 10, 10]], [0.9], [0])], batch_of([], []))
    with caplog.at_level("INFO", logger="mlkit"):
        values = metric.compute()
    assert values == {"images": 1.0, "objects": 0.0}
    assert "left out: map50" in caplog.text


def test_box_map_refuses_labels_beyond_the_support_and_targets_of_another_kind():
    metric = BoxMap()
    with pytest.raises(DataError, match=r"image: labels \[2\], 2 support classes"):
        metric.update([boxes_of([[0, 0, 1, 1]], [0.5], [2])], batch_of([], []))
    batch = batch_of([], [])
    batch.target = BoxTarget(torch.zeros(1, 1, 4), torch.zeros(1, 1))
    with pytest.raises(TrainingError, match="expected a ReferenceTarget, got BoxTarget"):
        metric.update([boxes_of([], [], [])], batch)


def test_two_ranks_in_any_order_give_exactly_what_one_gives():
    frames = random_frames(30, seed=1)
    whole, parts = BoxMap(), [BoxMap(), BoxMap()]
    whole.merge(frames)
    parts[0].merge(frames[1::2])
    parts[1].merge(frames[::2])
    merged = BoxMap()
    for part in parts:
        merged.merge(part.state())
    assert merged.compute() == whole.compute()
    assert merged.rows() == whole.rows()
