"""Rows of loss distances: one forward pass per image, then its losses against all targets.

`dist[i][j]` is the loss of image i's raw output with image j's predictions as targets.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mlkit_cluster.images.pixels import read_input
from mlkit_cluster.kernel import Grid, TargetTable, pair_losses, prepare_row
from mlkit_cluster.yolo.adapter import load_detector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_cluster.kernel import Targets
    from mlkit_cluster.kernel.raw import RawOutput
    from mlkit_cluster.yolo.adapter import Detector

Kernel = Literal["auto", "numba", "torch", "criterion"]
_log = logging.getLogger("mlkit.cluster")


@dataclass(frozen=True)
class RowsTask:
    """Rows `row0` to `row1` (exclusive), against all columns or those named for each row.

    Args:
        row0: First row.
        row1: One past the last.
        columns: For each row the columns wanted, `[K_i]` int64; None: all.
    """

    row0: int
    row1: int
    columns: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class RowsRecipe:
    """What a worker needs to compute any row.

    Args:
        model: The detector's file.
        image_size: Side of the square input, pixels.
        device: As torch names it, or "auto".
        paths: One image for each row, in matrix order.
        targets: Of all columns, in the same order.
        components: Which of box, cls, dfl, seg.
        kernel: "criterion" is the installed library's own loss, pair by pair: slow, for any head.
        batch_size: Images in one forward pass.
        threads: Rows that the kernel takes at a time; 0: one for each core.
    """

    model: Path
    image_size: int
    device: str
    paths: tuple[Path, ...]
    targets: Targets
    components: tuple[str, ...]
    kernel: Kernel = "auto"
    batch_size: int = 8
    threads: int = 0

    def build(self) -> RowsWorker:
        """Return a worker with the detector loaded and the targets prepared."""
        return RowsWorker(self, load_detector(self.model, self.image_size, self.device))


class RowsWorker:
    """Computes rows; holds one image's raw output at a time for each thread.

    Args:
        recipe: As it says.
        detector: Loaded, in eval mode.
    """

    def __init__(self, recipe: RowsRecipe, detector: Detector) -> None:
        self.recipe, self.detector = recipe, detector
        self.grid = grid_of(detector)
        self.table = TargetTable(recipe.targets, self.grid)
        threads = recipe.threads or _cores()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kernel")

    @property
    def by_criterion(self) -> bool:
        """Whether losses are the library's own: asked for, or of a head that the kernel lacks."""
        return self.recipe.kernel == "criterion" or not self.detector.fast

    def prepare(self, task: RowsTask) -> torch.Tensor:
        """Return the rows' images, `[R, 3, S, S]` uint8."""
        images = [read_input(path, self.recipe.image_size) for path in self._paths(task)]
        return torch.stack(images)

    def _paths(self, task: RowsTask) -> Sequence[Path]:
        return self.recipe.paths[task.row0 : task.row1]

    def run(self, task: RowsTask, images: torch.Tensor) -> list[dict[str, np.ndarray]]:
        """Return for each row its components, `[N]` or `[K_i]` float32."""
        start = time.perf_counter()
        rows: list[dict[str, np.ndarray]] = []
        for first in range(0, len(images), self.recipe.batch_size):
            raw = self.detector(to_unit(images[first : first + self.recipe.batch_size]))
            count = raw.scores.shape[0]
            wanted = [self._wanted(task, first + offset) for offset in range(count)]
            singles = [raw.row(index) for index in range(count)]
            rows += self._pool.map(self._losses, singles, wanted)
        took = time.perf_counter() - start
        _log.debug("rows %d to %d: %d passes, %.2f s", task.row0, task.row1, len(rows), took)
        return rows

    @staticmethod
    def _wanted(task: RowsTask, offset: int) -> np.ndarray | None:
        return None if task.columns is None else task.columns[offset]

    def _losses(self, raw: RawOutput, columns: np.ndarray | None) -> dict[str, np.ndarray]:
        backend = self.recipe.kernel
        if backend == "criterion" or not self.detector.fast:
            found = by_criterion(self.detector, raw, self.recipe.targets, columns)
        else:
            raw = raw if backend == "torch" else raw.cpu()
            losses = pair_losses(prepare_row(raw, self.grid), self.table, columns, backend)
            found = {name: getattr(losses, name) for name in self.recipe.components}
        return {name: found[name] for name in self.recipe.components}


def _cores() -> int:
    """Return the cores that this process may use; not every system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def grid_of(detector: Detector) -> Grid:
    """Return the anchors' grid of a detector."""
    return Grid(detector.image_size, detector.strides, detector.reg_max, detector.num_classes)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float 0..1."""
    return images.float().div_(255)


def by_criterion(
    detector: Detector, raw: RawOutput, targets: Targets, columns: np.ndarray | None
) -> Mapping[str, np.ndarray]:
    """Return the library's own loss of one raw output against each column, at batch 1.

    Args:
        detector: Whose criterion.
        raw: One image's.
        targets: Of all columns.
        columns: Which; None: all.

    Returns:
        Component to `[K]` float32; box, dfl and seg are NaN where a column has no target.
    """
    chosen = np.arange(len(targets.starts) - 1) if columns is None else columns
    found: dict[str, list[float]] = {}
    for column in chosen:
        boxes, labels, masks = targets.of(int(column))
        for name, value in detector.criterion(raw, boxes, labels, masks).items():
            unknown = len(labels) == 0 and name != "cls"
            found.setdefault(name, []).append(float("nan") if unknown else value)
    return {name: np.asarray(values, np.float32) for name, values in found.items()}
