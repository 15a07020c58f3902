"""Pair losses against the formulas in float64, and against cases that a pencil solves."""

import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_kit import STRIDES, dense_losses, random_raw, random_targets, relative

from mlkit_cluster.kernel import Grid, Targets, TargetTable, pair_losses, prepare_row, to_canonical
from mlkit_cluster.kernel.raw import RawOutput
from mlkit_core.errors import InputError

BACKENDS = ("numba", "torch")
NAMES = ("box", "cls", "dfl", "score_sum")


def certain_raw(grid: Grid, distance: int, logit: float) -> RawOutput:
    """All anchors say one distance for all sides, for sure, and one score."""
    bins = torch.full((4, grid.reg_max, grid.num_anchors), -40.0)
    bins[:, distance] = 0
    return RawOutput(
        boxes=bins.view(1, -1, grid.num_anchors),
        scores=torch.full((1, grid.num_classes, grid.num_anchors), logit),
        coefs=None,
        protos=None,
        maps={},
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pair_of_two_anchors_is_what_the_pencil_says(backend):
    grid = Grid(64, STRIDES, 16, 1)
    boxes = to_canonical(np.array([[20, 20, 36, 36]]), 64)
    targets = Targets(boxes, np.zeros(1, np.int32), np.array([0, 1]))
    row = prepare_row(certain_raw(grid, distance=1, logit=0.0), grid)
    losses = pair_losses(row, TargetTable(targets, grid), backend=backend)
    # Anchor (28, 28) of stride 8 says the target itself. Anchor (24, 24) of stride 16 says 8 to 40:
    # IoU 256 / 1024, centres 32 px² apart, hull 2 * 32² px², no difference of shape.
    overlap = 0.25 - 32 / 2048
    soft = overlap**6
    assert losses.n_pos[0] == 2
    assert losses.score_sum[0] == pytest.approx(1 + soft, rel=1e-6)
    assert losses.box[0] == pytest.approx(soft * (1 - overlap) / (1 + soft), rel=1e-5)
    assert losses.cls[0] == pytest.approx(84 * np.log(2) / (1 + soft), rel=1e-6)
    # Its sides lie 0.25 and 0.75 strides away: three and one quarter of the weight on bin 0.
    assert losses.dfl[0] == pytest.approx(soft * (0.75 * 40 + 0.25 * 40) / 2 / (1 + soft), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_without_targets_has_the_loss_of_the_background_alone(backend):
    grid = Grid(64, STRIDES, 16, 3)
    raw = random_raw(0, grid, depth=4)
    targets = random_targets(0, grid, [0, 1, 0], masks=True)
    losses = pair_losses(prepare_row(raw, grid), TargetTable(targets, grid), backend=backend)
    by_hand = np.log1p(np.exp(raw.scores.double().numpy())).sum()
    assert losses.cls[[0, 2]] == pytest.approx(by_hand, rel=1e-6)
    for name in ("box", "dfl", "seg"):
        assert np.isnan(getattr(losses, name)).tolist() == [True, False, True]
    assert losses.n_targets.tolist() == [0, 1, 0]
    assert losses.n_pos[[0, 2]].tolist() == losses.score_sum[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_columns_give_no_losses(backend):
    grid = Grid(64, STRIDES, 16, 3)
    row = prepare_row(random_raw(0, grid, depth=4), grid)
    table = TargetTable(random_targets(0, grid, [2], masks=True), grid)
    losses = pair_losses(row, table, np.zeros(0, np.int64), backend)
    assert losses.box.shape == losses.seg.shape == losses.n_pos.shape == (0,)


@given(
    seed=st.integers(0, 2**20),
    size=st.sampled_from([64, 224]),
    num_classes=st.sampled_from([1, 5]),
    reg_max=st.sampled_from([2, 7, 16]),
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    depth=st.sampled_from([0, 3, 8]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_both_backends_are_the_formulas(seed, size, num_classes, reg_max, counts, depth):
    grid = Grid(size, STRIDES, reg_max, num_classes)
    raw = random_raw(seed, grid, depth)
    targets = random_targets(seed, grid, counts, masks=depth > 0)
    row, table = prepare_row(raw, grid), TargetTable(targets, grid)
    compiled, plain = (pair_losses(row, table, backend=backend) for backend in BACKENDS)
    assert (compiled.n_pos == plain.n_pos).all()
    for name in (*NAMES, "seg") if depth else NAMES:
        assert relative(getattr(compiled, name), getattr(plain, name)) < 2e-6, name
    for column in np.flatnonzero(counts):
        expected = dense_losses(raw, grid, *targets.of(column))
        if not expected["sure"]:  # torch chooses among equals; see test_kernel_criterion
            continue
        for name in (*NAMES, "n_pos", "seg") if depth else (*NAMES, "n_pos"):
            assert relative(getattr(compiled, name)[column], expected[name]) < 1e-5, name


def test_columns_are_computed_in_the_order_asked_for():
    grid = Grid(224, STRIDES, 16, 4)
    row = prepare_row(random_raw(3, grid), grid)
    table = TargetTable(random_targets(3, grid, [3, 0, 5, 1]), grid)
    everything = pair_losses(row, table)
    for backend in BACKENDS:
        some = pair_losses(row, table, np.array([2, 0, 2]), backend)
        assert relative(some.cls, everything.cls[[2, 0, 2]]) < 2e-6
        assert some.n_targets.tolist() == [5, 3, 5]


def test_a_pair_does_not_depend_on_its_neighbours():
    grid = Grid(224, STRIDES, 16, 4)
    row = prepare_row(random_raw(4, grid, depth=8), grid)
    table = TargetTable(random_targets(4, grid, [9, 4, 12], masks=True), grid)
    together = pair_losses(row, table, backend="numba")
    alone = [pair_losses(row, table, np.array([j]), "numba") for j in range(3)]
    assert together.box.tolist() == [losses.box[0] for losses in alone]
    # The sums of masks are added up otherwise where an anchor serves many targets.
    assert relative(together.seg, [losses.seg[0] for losses in alone]) < 1e-6


def test_an_anchor_of_many_targets_gives_the_same_mask_loss_as_of_one():
    grid = Grid(64, STRIDES, 16, 2)
    row = prepare_row(random_raw(5, grid, depth=8), grid)
    targets = random_targets(5, grid, [4] * 60, masks=True)
    table = TargetTable(targets, grid)
    many = pair_losses(row, table, backend="numba").seg
    few = [pair_losses(row, table, np.array([j]), "numba").seg[0] for j in range(60)]
    assert relative(many, few) < 1e-6


def test_masks_are_left_out_where_one_side_has_none():
    grid = Grid(64, STRIDES, 16, 2)
    with_masks, without = (random_raw(6, grid, depth) for depth in (8, 0))
    targets = random_targets(6, grid, [2, 3], masks=True)
    table, bare = TargetTable(targets, grid), TargetTable(replace(targets, masks=None), grid)
    for backend in BACKENDS:
        assert pair_losses(prepare_row(without, grid), table, backend=backend).seg is None
        assert pair_losses(prepare_row(with_masks, grid), bare, backend=backend).seg is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_three_hundred_targets_stay_within_two_gigabytes(backend):
    grid = Grid(640, STRIDES, 16, 80)
    raw = random_raw(7, grid, depth=32)
    rng = np.random.default_rng(7)
    low = rng.uniform(0, 100, (300, 2))
    boxes = to_canonical(np.concatenate([low, low + rng.uniform(300, 540, (300, 2))], 1), 640)
    labels = rng.integers(0, 80, 300).astype(np.int32)
    masks = random_targets(7, grid, [300], masks=True).masks
    table = TargetTable(Targets(boxes, labels, np.array([0, 300]), masks), grid)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses = pair_losses(prepare_row(raw, grid), table, backend=backend)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2e6  # KiB
    assert losses.n_targets.tolist() == [300]
    assert 100 < losses.n_pos[0] <= 3000
    assert np.isfinite([losses.box, losses.cls, losses.dfl, losses.seg]).all()


def test_threads_do_not_disturb_each_other():
    grid = Grid(224, STRIDES, 16, 4)
    rows = [prepare_row(random_raw(seed, grid, depth=8), grid) for seed in range(12)]
    table = TargetTable(random_targets(9, grid, [9, 4, 12] * 10, masks=True), grid)
    alone = [pair_losses(row, table) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: pair_losses(row, table), rows))
    for one, other in zip(alone, together, strict=True):
        assert one.box.tolist() == other.box.tolist()
        assert one.seg.tolist() == other.seg.tolist()


def test_kernels_compile_where_numba_finds_no_folder_for_its_cache(monkeypatch):
    from numba.core.caching import CompileResultCacheImpl

    from mlkit_cluster.kernel.compiling import kernel

    def double(value: int) -> int:
        return 2 * value

    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    assert kernel(double)(21) == 42


def test_half_precision_output_is_taken_as_float32():
    grid = Grid(64, STRIDES, 16, 2)
    raw = random_raw(8, grid)
    half = replace(raw, boxes=raw.boxes.half(), scores=raw.scores.half())
    wide = replace(raw, boxes=half.boxes.float(), scores=half.scores.float())
    table = TargetTable(random_targets(8, grid, [4]), grid)
    one, two = (pair_losses(prepare_row(r, grid), table) for r in (half, wide))
    assert one.box.tolist() == two.box.tolist()


def test_another_grid_is_refused():
    grid, other = Grid(64, STRIDES, 16, 2), Grid(96, STRIDES, 16, 2)
    row = prepare_row(random_raw(0, grid), grid)
    with pytest.raises(InputError, match="pair losses: row on"):
        pair_losses(row, TargetTable(random_targets(0, other, [1]), other))


def test_a_column_that_is_no_image_is_refused():
    grid = Grid(64, STRIDES, 16, 2)
    row = prepare_row(random_raw(0, grid), grid)
    table = TargetTable(random_targets(0, grid, [1, 1]), grid)
    with pytest.raises(InputError, match="columns 0 to 2 of 2 images"):
        pair_losses(row, table, np.array([0, 2]))


def test_an_unknown_backend_is_refused():
    grid = Grid(64, STRIDES, 16, 2)
    row = prepare_row(random_raw(0, grid), grid)
    table = TargetTable(random_targets(0, grid, [1]), grid)
    with pytest.raises(InputError, match="expected auto, numba or torch, got 'cuda'"):
        pair_losses(row, table, backend="cuda")


def test_without_numba_auto_takes_torch_and_numba_is_refused(monkeypatch):
    grid = Grid(64, STRIDES, 16, 2)
    row = prepare_row(random_raw(0, grid), grid)
    table = TargetTable(random_targets(0, grid, [3]), grid)
    expected = pair_losses(row, table, backend="torch")
    monkeypatch.setattr("mlkit_cluster.kernel.pairs.find_spec", lambda name: None)
    assert pair_losses(row, table).box.tolist() == expected.box.tolist()
    with pytest.raises(InputError, match="kernel: numba is not installed"):
        pair_losses(row, table, backend="numba")


@pytest.mark.parametrize(
    ("field", "message"),
    [("boxes", r"boxes: expected \[1, 64, 84\]"), ("scores", r"scores: expected \[1, 2, 84\]")],
)
def test_a_raw_output_of_another_layout_is_refused(field, message):
    grid = Grid(64, STRIDES, 16, 2)
    raw = random_raw(0, grid)
    with pytest.raises(InputError, match=message):
        prepare_row(replace(raw, **{field: getattr(raw, field)[:, 1:]}), grid)


def test_prototypes_of_another_size_are_refused():
    grid = Grid(64, STRIDES, 16, 2)
    raw = random_raw(0, grid, depth=4)
    with pytest.raises(InputError, match="protos: expected a side of 16"):
        prepare_row(replace(raw, protos=raw.protos[..., :8]), grid)
