"""Pair losses against ultralytics' own loss at batch 1: made-up outputs, and real images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_kit import STRIDES, criterion_of, disc, random_raw, random_targets, relative

from mlkit_cluster.images.pixels import read_input
from mlkit_cluster.kernel import (
    Grid,
    Targets,
    TargetTable,
    encode_mask,
    pair_losses,
    prepare_row,
    to_canonical,
)
from mlkit_cluster.kernel.raw import RawOutput

TOLERANCE = 1e-5
WEIGHTS = {False: "yolov8n_dequant_sd.pt", True: "yolov8n-seg_dequant_sd.pt"}


def worst_error(raws, targets, grid, pairs, backend, *, masks=False) -> float:
    """Largest error of any component over `(row, column)` pairs."""
    table, ask = TargetTable(targets, grid), criterion_of(grid, masks)
    worst = 0.0
    for index in sorted({row for row, _ in pairs}):
        columns = np.array([column for row, column in pairs if row == index])
        losses = pair_losses(prepare_row(raws[index], grid), table, columns, backend)
        for place, column in enumerate(columns):
            for name, expected in ask(raws[index], targets.of(column)).items():
                if name == "sem" or (losses.n_targets[place] == 0 and name != "cls"):
                    continue
                worst = max(worst, relative(getattr(losses, name)[place], expected))
    return worst


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(
    ("size", "num_classes", "reg_max", "masks"),
    [
        (64, 3, 16, True),
        (96, 1, 8, True),
        (224, 5, 16, True),
        (256, 80, 16, False),
        (160, 2, 4, False),
    ],
)
def test_made_up_outputs_have_the_criterions_losses(backend, size, num_classes, reg_max, masks):
    grid = Grid(size, STRIDES, reg_max, num_classes)
    raws = [random_raw(seed, grid, depth=5 if masks else 0) for seed in range(6)]
    targets = random_targets(size, grid, [1, 5, 12, 0, 30], masks)
    pairs = [(row, column) for row in range(6) for column in range(5)]
    assert worst_error(raws, targets, grid, pairs, backend, masks=masks) < TOLERANCE


def test_anchors_of_no_merit_that_torch_fills_up_with_count_as_it_counts_them():
    """Few positive candidates: the criterion takes others of metric 0, in whose places we agree."""
    grid = Grid(64, STRIDES, 7, 1)
    raw, targets = random_raw(0, grid), random_targets(0, grid, [8, 3])
    # Without what torch fills up with, an anchor would stay with its second best target.
    expected = criterion_of(grid)(raw, targets.of(0))
    losses = pair_losses(prepare_row(raw, grid), TargetTable(targets, grid))
    assert relative(losses.box[0], expected["box"]) < TOLERANCE
    assert losses.n_pos[0] == 23


def test_a_batch_is_the_mean_of_its_images_weighted_by_their_soft_scores():
    grid = Grid(224, STRIDES, 16, 4)
    raws = [random_raw(seed, grid) for seed in range(3)]
    targets = random_targets(1, grid, [20, 25, 30])
    table = TargetTable(targets, grid)
    each = [pair_losses(prepare_row(raw, grid), table, np.array([i])) for i, raw in enumerate(raws)]
    weights = np.array([losses.score_sum[0] for losses in each])
    assert weights.min() >= 1
    batch = RawOutput(
        boxes=torch.cat([raw.boxes for raw in raws]),
        scores=torch.cat([raw.scores for raw in raws]),
        coefs=None,
        protos=None,
        maps=raws[0].maps,
    )
    items = criterion_of(grid)(batch, *(targets.of(index) for index in range(3)))
    for name in ("box", "cls", "dfl"):
        values = np.array([getattr(losses, name)[0] for losses in each])
        assert relative((weights * values).sum() / weights.sum(), items[name]) < 2e-6


def test_masks_that_do_not_overlap_cost_the_same_however_the_criterion_stores_them():
    grid = Grid(128, STRIDES, 16, 2)
    raw = random_raw(2, grid, depth=8)
    boxes = np.array([[4, 4, 60, 60], [66, 10, 120, 60], [10, 70, 120, 124]], np.float32)
    targets = Targets(
        boxes_xywhn=to_canonical(boxes, 128),
        labels=np.array([0, 1, 1], np.int32),
        starts=np.array([0, 3]),
        masks=tuple(encode_mask(disc(box / 4, 32)) for box in boxes),
    )
    found = pair_losses(prepare_row(raw, grid), TargetTable(targets, grid)).seg[0]
    for overlap in (False, True):
        expected = criterion_of(grid, masks=True, overlap=overlap)(raw, targets.of(0))["seg"]
        assert relative(found, expected) < TOLERANCE


@pytest.fixture(scope="module")
def real(shared_data: Path):
    """`(size, masks) -> 64 raw outputs and their predictions as targets`, each made once."""
    from mlkit_cluster.yolo.adapter import load_detector

    names = (shared_data / "coco/train.txt").read_text().split()[:64]
    known: dict[tuple[int, bool], tuple[list[RawOutput], Targets]] = {}

    def make(size: int, masks: bool):
        if (size, masks) not in known:
            detector = load_detector(shared_data / "weights" / WEIGHTS[masks], size, "cpu")
            images = [read_input(shared_data / "coco" / name, size) for name in names]
            raws = [detector(image[None].float() / 255).row(0) for image in images]
            found = [detector.detections(raw, conf=0.25, iou=0.45)[0] for raw in raws]
            known.clear()  # a hundred megabytes each
            known[size, masks] = raws, predictions(found, size)
        return known[size, masks]

    return make


def predictions(found, size: int) -> Targets:
    boxes = np.concatenate([each.boxes_input for each in found]).clip(0, size)
    masks = [blob for each in found for blob in each.masks or ()]
    return Targets(
        boxes_xywhn=to_canonical(boxes, size),
        labels=np.concatenate([each.labels for each in found]),
        starts=np.cumsum([0, *(len(each.labels) for each in found)]),
        masks=tuple(masks) if found[0].masks is not None else None,
    )


def some_pairs(targets: Targets, count: int) -> list[tuple[int, int]]:
    """Random ordered pairs of 64 images, a fifth of them with the most crowded targets."""
    rng = np.random.default_rng(0)
    crowded = np.argsort(-np.diff(targets.starts))[:4]
    rows = rng.integers(0, 64, count)
    columns = np.where(
        rng.random(count) < 0.2, rng.choice(crowded, count), rng.integers(0, 64, count)
    )
    return list(dict.fromkeys(zip(rows.tolist(), columns.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("size", "masks", "count"),
    [(320, False, 1200), (640, False, 400), (320, True, 300), (640, True, 60)],
)
def test_real_images_have_the_criterions_losses(real, size, masks, count):
    raws, targets = real(size, masks)
    assert np.diff(targets.starts).max() >= 10
    pairs = some_pairs(targets, count)
    grid = Grid(size, STRIDES, 16, 80)
    assert worst_error(raws, targets, grid, pairs, "numba", masks=masks) < TOLERANCE
    few = pairs[:: len(pairs) // 40]
    assert worst_error(raws, targets, grid, few, "torch", masks=masks) < TOLERANCE


def test_an_image_fits_its_own_predictions_best(real):
    raws, targets = real(320, False)
    grid = Grid(320, STRIDES, 16, 80)
    table = TargetTable(targets, grid)
    rows = [pair_losses(prepare_row(raw, grid), table) for raw in raws]
    seen = np.flatnonzero(np.diff(targets.starts))
    total = np.stack([7.5 * row.box + 0.5 * row.cls + 1.5 * row.dfl for row in rows])[:, seen]
    own = total[seen].argmin(1) == np.arange(len(seen))
    assert len(seen) > 50
    assert own.mean() >= 0.9
    # Targets given in another frame lie outside the image: every pair then costs what none costs.
    background = np.array([prepare_row(raw, grid).background for raw in raws])
    costs = np.stack([row.cls for row in rows])[:, seen]
    assert (np.abs(costs / background[:, None] - 1) > 1e-6).all()
    assert np.abs(total[seen] - total[seen].T).max() > 1
