"""What a pair of images costs: ultralytics' criterion, torch alone, and the compiled kernel.

`uv run python benchmarks/cluster_kernel.py --data ../shared/data` prints a table for each size of
input and each task: CPU microseconds per ordered pair on one thread, how many times less than the
naive way (a), the largest error against the criterion, and what a matrix of N images comes to.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_cluster.images.pixels import read_input
from mlkit_cluster.kernel import Grid, Targets, TargetTable, pair_losses, prepare_row, to_canonical
from mlkit_cluster.yolo.adapter import Detector, load_detector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlkit_cluster.kernel.pairs import Backend
    from mlkit_cluster.kernel.raw import RawOutput

MANY = 1024  # columns of a long row; images are repeated up to here


@dataclass(frozen=True)
class Case:
    """64 images and their predictions as targets."""

    detector: Detector
    images: list[torch.Tensor]  # [1, 3, S, S] each
    raws: list[RawOutput]
    targets: Targets
    grid: Grid

    def table(self, columns: int) -> TargetTable:
        """Return the targets, repeated to so many images."""
        chosen = np.arange(columns) % len(self.raws)
        parts = [self.targets.of(int(index)) for index in chosen]
        masks = [blob for _, _, blobs in parts for blob in blobs or ()]
        return TargetTable(
            Targets(
                boxes_xywhn=np.concatenate([boxes for boxes, _, _ in parts]),
                labels=np.concatenate([labels for _, labels, _ in parts]),
                starts=np.cumsum([0, *(len(labels) for _, labels, _ in parts)]),
                masks=tuple(masks) if self.targets.masks is not None else None,
            ),
            self.grid,
        )


def load_case(data: Path, size: int, masks: bool, count: int) -> Case:
    """Return the first images of COCO's training list, run once."""
    name = f"yolov8n{'-seg' if masks else ''}_dequant_sd.pt"
    detector = load_detector(data / "weights" / name, size, "cpu")
    paths = [data / "coco" / line for line in (data / "coco/train.txt").read_text().split()]
    images = [read_input(path, size)[None].float() / 255 for path in paths[:count]]
    raws = [detector(image).row(0) for image in images]
    found = [detector.detections(raw, conf=0.25, iou=0.45)[0] for raw in raws]
    boxes = np.concatenate([each.boxes_input for each in found]).clip(0, size)
    blobs = tuple(blob for each in found for blob in each.masks or ())
    targets = Targets(
        boxes_xywhn=to_canonical(boxes, size),
        labels=np.concatenate([each.labels for each in found]),
        starts=np.cumsum([0, *(len(each.labels) for each in found)]),
        masks=blobs if masks else None,
    )
    grid = Grid(size, detector.strides, detector.reg_max, detector.num_classes)
    return Case(detector, images, raws, targets, grid)


def cpu_us(work: Callable[[], object], count: int, repeats: int = 3) -> float:
    """Return CPU microseconds of one of `count` units of work, the best of some repeats."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent) / count * 1e6


def kernel_us(case: Case, table: TargetTable, backend: Backend, rows: Iterable[int]) -> float:
    """Return CPU microseconds per pair; rows are prepared just before use, as in a run."""
    chosen = list(rows)
    pair_losses(prepare_row(case.raws[0], case.grid), table, backend=backend)
    best = float("inf")
    for _ in range(3):
        spent = 0.0
        for index in chosen:
            row = prepare_row(case.raws[index], case.grid)
            start = time.process_time()
            pair_losses(row, table, backend=backend)
            spent += time.process_time() - start
        best = min(best, spent)
    return best / len(chosen) / len(table) * 1e6


def sample_pairs(case: Case, count: int) -> list[tuple[int, int]]:
    """Return random ordered pairs, each once."""
    total = len(case.raws)
    drawn = np.random.default_rng(0).permutation(total * total)[:count]
    return [(int(place) // total, int(place) % total) for place in drawn]


def criterion(case: Case, row: int, column: int) -> dict[str, float]:
    """Return ultralytics' loss of one pair at batch 1."""
    return case.detector.criterion(case.raws[row], *case.targets.of(column))


def with_forward(case: Case, row: int, column: int) -> None:
    """Run the network for one pair, and ultralytics' loss."""
    raw = case.detector(case.images[row]).row(0)
    case.detector.criterion(raw, *case.targets.of(column))


def largest_error(case: Case, pairs: list[tuple[int, int]], backend: Backend) -> float:
    """Return the largest `|x - ref| / max(1, |ref|)` of any component of any pair."""
    worst, table = 0.0, case.table(len(case.raws))
    for index in sorted({row for row, _ in pairs}):
        columns = np.array([column for row, column in pairs if row == index])
        losses = pair_losses(prepare_row(case.raws[index], case.grid), table, columns, backend)
        for place, column in enumerate(columns):
            for name, expected in criterion(case, index, int(column)).items():
                if losses.n_targets[place] or name == "cls":
                    found = float(getattr(losses, name)[place])
                    worst = max(worst, abs(found - expected) / max(1.0, abs(expected)))
    return worst


def measure(case: Case, options: argparse.Namespace) -> None:
    """Print one table."""
    total, few = len(case.raws), sample_pairs(case, 16)
    pairs = sample_pairs(case, options.pairs)
    own, long = case.table(total), case.table(MANY)
    forward = cpu_us(lambda: [case.detector(image) for image in case.images[:8]], 8)
    prepare = cpu_us(lambda: [prepare_row(raw, case.grid) for raw in case.raws[:8]], 8)
    naive = cpu_us(lambda: [with_forward(case, *pair) for pair in few[:8]], 8)
    cached = cpu_us(lambda: [criterion(case, *pair) for pair in few], len(few))
    plain = kernel_us(case, own, "torch", range(0, total, 16))
    fused = kernel_us(case, own, "numba", range(total))
    marginal = kernel_us(case, long, "numba", range(0, total, 8))
    rows = {
        "(a) forward per pair, criterion": naive,
        "(b) cached outputs, criterion": cached,
        f"torch alone, {total} columns": plain,
        f"numba, {total} columns": fused,
        f"numba, {MANY} columns (repeated)": marginal,
    }
    for name, spent in rows.items():
        print(f"  {name:36} {spent:12.2f} us/pair {naive / spent:10.1f} x")
    print(f"  once per row: forward {forward / 1e3:.1f} ms, preparation {prepare / 1e3:.1f} ms")
    for size, pair in ((total, fused), (1_000, marginal), (10_000, marginal)):
        whole = (forward + prepare) / size + pair
        how = "measured parts" if size == total else "extrapolated"
        print(f"  all-in, N = {size:6}: {whole:9.1f} us/pair {naive / whole:8.0f} x  ({how})")
    for backend in ("numba", "torch"):
        asked = pairs if backend == "numba" else pairs[: len(pairs) // 4]
        error = largest_error(case, asked, backend)
        print(f"  largest error of {len(asked)} pairs, {backend}: {error:.1e}")


FIRST_PAIR = """
import time
import numpy as np, torch
from mlkit_cluster.kernel import *
from mlkit_cluster.kernel.raw import RawOutput
grid, mask = Grid(64, (8, 16, 32), 16, 80), encode_mask(np.ones((16, 16), bool))
shapes = (1, 64, 84), (1, 80, 84), (1, 32, 84), (1, 32, 16, 16)
row = prepare_row(RawOutput(*(torch.zeros(shape) for shape in shapes), {}), grid)
box = np.array([[.5, .5, .5, .5]], np.float32)
table = TargetTable(Targets(box, np.zeros(1, np.int32), np.array([0, 1]), (mask,)), grid)
start = time.process_time()
pair_losses(row, table, backend="numba")
print(time.process_time() - start)
"""


def first_pair_seconds() -> list[float]:
    """Return CPU seconds of a process's first pair: with nothing compiled yet, and after that."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", FIRST_PAIR]
        runs = [
            subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
            for _ in range(2)
        ]
    return [float(run.stdout) for run in runs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=200, help="pairs compared for the error")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    options = parser.parse_args()
    torch.set_num_threads(1)
    cold, warm = first_pair_seconds()
    print(
        f"first pair of a machine: {cold:.1f} s of CPU (compiles); of a later process: {warm:.1f} s"
    )
    for size in options.sizes:
        for masks in (False, True):
            case = load_case(options.data, size, masks, options.images)
            counts = np.diff(case.targets.starts)
            print(
                f"{'boxes and masks' if masks else 'boxes'}, {size} px, N = {len(counts)} images, "
                f"{counts.mean():.1f} targets each (at most {counts.max()}), one thread"
            )
            measure(case, options)


if __name__ == "__main__":
    main()
