"""What a pair costs: CPU time of this process, one thread, best of three."""

import platform
import time

import numpy as np
import pytest
import torch
from kernel_kit import STRIDES, random_raw, random_targets

from mlkit_cluster.kernel import Grid, TargetTable, pair_losses, prepare_row

GRID = Grid(320, STRIDES, 16, 80)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def microseconds(rows, table: TargetTable, backend: str) -> float:
    pair_losses(rows[0], table, backend=backend)  # compiles
    spent = []
    for _ in range(3):
        start = time.process_time()
        for row in rows:
            pair_losses(row, table, backend=backend)
        spent.append(time.process_time() - start)
    return min(spent) / len(rows) / len(table) * 1e6


@pytest.mark.usefixtures("one_thread")
def test_the_compiled_kernel_is_many_times_faster_than_torch():
    """Microseconds a pair at 320 px, where this was written: 5 compiled, 160 with torch alone.

    A ratio within one run: how long a microsecond's work takes is the machine's affair.
    """
    rows = [prepare_row(random_raw(seed, GRID), GRID) for seed in range(8)]
    counts = np.random.default_rng(0).poisson(5, 256)
    table = TargetTable(random_targets(0, GRID, counts), GRID)
    assert microseconds(rows, table, "torch") > 8 * microseconds(rows, table, "numba")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
def test_overlaps_are_divided_sixteen_at_a_time():
    from mlkit_cluster.kernel import fused, numba_backend
    from mlkit_cluster.kernel.arrays import TargetArrays

    table = TargetTable(random_targets(0, GRID, [1]), GRID)
    arrays = TargetArrays(table.boxes, table.scaled, table.cells, table.labels, table.starts)
    row = numba_backend._row_arrays(prepare_row(random_raw(0, GRID), GRID))
    scratch, _ = numba_backend._work(GRID, 1)
    fused._score(row, arrays, 0, scratch)
    (assembly,) = fused._score.inspect_asm().values()
    assert "divps" in assembly
    assert "divss" not in assembly
