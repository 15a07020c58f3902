"""`distances`: the losses between images, in blocks that any machine may make."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis.neighbors import MANY_IMAGES
from mlkit_cluster.distances.conformance import check_conformance
from mlkit_cluster.distances.full import ROWS_PER_BLOCK, compute_blocks
from mlkit_cluster.distances.knn import compute_edges, measure_recall, plan_edges
from mlkit_cluster.distances.rows import Kernel, RowsRecipe
from mlkit_cluster.kernel import Targets, to_canonical
from mlkit_cluster.steps.telling import Tell, silent
from mlkit_cluster.store import reading
from mlkit_cluster.store.database import open_run
from mlkit_cluster.store.distance_spec import DistanceSpec, layout
from mlkit_cluster.store.matrix import manifest_file
from mlkit_core.errors import InputError
from mlkit_core.weights import file_sha256

if TYPE_CHECKING:
    from mlkit_cluster.distances.conformance import Conformance
    from mlkit_cluster.distances.knn import EdgePlan
    from mlkit_cluster.distances.rows import RowsWorker
    from mlkit_cluster.distances.shard import Shard
    from mlkit_cluster.engines.work import Engine
    from mlkit_cluster.store.database import RunStore
    from mlkit_cluster.store.distance_spec import Layout

_log = logging.getLogger("mlkit.cluster")
_EDGES = 50  # of an image in `neighbors`
_ADOPT_S = 5.0  # blocks are safe on the disk before the database hears of them
TABLE_LIMIT = 1000  # images up to which all pairs go into the table `distances`


@dataclass(frozen=True, kw_only=True)
class DistanceWish:
    """What is asked for.

    Args:
        components: Which of box, cls, dfl, seg; empty: all that the detector has.
        knn: Edges kept of each image, instead of the whole matrix; 0: the whole; None: the whole
            up to 20,000 images, 50 edges beyond.
        candidates: Images near by embedding among which the edges are sought.
        kernel: "auto", "numba", "torch", or "criterion" for the library's own loss, slowly.
        tolerance: Largest legal relative difference between kernel and criterion.
        device: As torch names it.
        model: Where the detector's file lies now; None: where it lay.
        batch_size: Images in one forward pass.
        replace: Forget distances of other settings or images.
    """

    components: tuple[str, ...] = ()
    knn: int | None = None
    candidates: int = 200
    kernel: Kernel = "auto"
    tolerance: float = 1e-5
    device: str = "auto"
    model: Path | None = None
    batch_size: int = 8
    replace: bool = False


@dataclass(frozen=True)
class Computed:
    """How it ended.

    Args:
        folder: Of the run.
        images: Rows and columns.
        rows: Computed by this call.
        mode: "full" or "knn".
        components: Which.
        conformance: What the comparison with the library found; None where it was the library's
            own loss that was computed.
        recall: In mode "knn", the mean share of an image's 10 nearest that are candidates.
    """

    folder: Path
    images: int
    rows: int
    mode: str
    components: tuple[str, ...]
    conformance: Conformance | None
    recall: float | None


def distances(
    path: Path,
    wish: DistanceWish,
    *,
    engine: Engine,
    shard: Shard | None = None,
    tell: Tell = silent,
) -> Computed:
    """Compute the blocks that a run lacks; a stopped call loses at most one of them.

    Args:
        path: Of the run.
        wish: What is asked for.
        engine: Where the work is done.
        shard: Which part of a job array this is; then only files are written, and `merge` or a
            later call without shard registers them.
        tell: Called with rows done and wanted.

    Raises:
        InputError: The run lacks something, or holds distances of other settings.
        MlkitError: Kernel and criterion disagree.
    """
    with open_run(path) as run:
        recipe = recipe_of(run, wish)
        worker = recipe.build()
        checked = None
        if not worker.by_criterion:
            checked = check_conformance(worker, tolerance=wish.tolerance)
        edges = _edges_wanted(wish, len(recipe.paths))
        spec = _spec(worker, wish, edges)
        work = _Work(run, recipe, engine, run.begin_distances(spec, replace=wish.replace))
        plan = plan_edges(reading.embedding_matrix(run)[1], wish.candidates) if edges else None
        done = work.blocks(plan, shard, tell)
        recall = None
        if shard is None:
            recall = _finish(run, worker, plan, edges)
        return Computed(
            run.folder, len(recipe.paths), done, spec.mode, recipe.components, checked, recall
        )


def recipe_of(run: RunStore, wish: DistanceWish) -> RowsRecipe:
    """Return what computes any row of a run.

    Raises:
        InputError: The run has no detector, its file is gone or changed, a component is unknown.
    """
    query = "SELECT model, model_sha256, imgsz, components FROM runs WHERE kind = 'yolo'"
    row = run.db.execute(query).fetchone()
    if row is None:
        raise InputError(f"{run.path}: no detector has been run", hint="`mlkit cluster extract`")
    model, known = wish.model or Path(row[0]), tuple(json.loads(row[3]))
    _check_model(model, row[1])
    components = wish.components or known
    if unknown := sorted(set(components) - set(known)):
        raise InputError(f"--components: this detector has {', '.join(known)}, got {unknown[0]!r}")
    return RowsRecipe(
        model=model,
        image_size=row[2],
        device=wish.device,
        paths=tuple(run.image_path(image.path) for image in reading.images(run)),
        targets=targets_of(run, row[2], with_masks="seg" in components),
        components=tuple(name for name in known if name in components),
        kernel=wish.kernel,
        batch_size=wish.batch_size,
    )


def _check_model(model: Path, sha256: str) -> None:
    if not model.is_file():
        hint = "say where it lies now by --model"
        raise InputError(f"{model}: the detector's file is gone", hint=hint)
    if file_sha256(model) != sha256:
        hint = "extract with it into a run of its own"
        raise InputError(f"{model}: not the detector that this run was extracted with", hint=hint)


def targets_of(run: RunStore, image_size: int, *, with_masks: bool) -> Targets:
    """Return the predictions of all images that serve as targets, in matrix order."""
    found = reading.targets(run)
    counts = [len(one) for one in found]
    boxes = [to_canonical(one.boxes_input, image_size) for one in found]
    masks = tuple(blob for one in found for blob in one.masks or ()) if with_masks else None
    return Targets(
        np.concatenate(boxes) if boxes else np.empty((0, 4), np.float32),
        np.concatenate([one.labels for one in found]) if found else np.empty(0, np.int32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        masks,
    )


def _edges_wanted(wish: DistanceWish, images: int) -> int:
    if wish.knn is None:
        return _EDGES if images > MANY_IMAGES else 0
    return min(wish.knn, max(images - 1, 0))


def _spec(worker: RowsWorker, wish: DistanceWish, edges: int) -> DistanceSpec:
    parts: dict[str, object] = {"criterion": worker.by_criterion}
    if edges:
        parts["candidates"] = wish.candidates
    mode = "knn" if edges else "full"
    return DistanceSpec(
        components=worker.recipe.components, mode=mode, knn_k=edges or None, parts=parts
    )


@dataclass(frozen=True)
class _Work:
    """The blocks of one matrix, and who makes them."""

    run: RunStore
    recipe: RowsRecipe
    engine: Engine
    fingerprint: str

    def blocks(self, plan: EdgePlan | None, shard: Shard | None, tell: Tell) -> int:
        """Make what is missing; return how many rows that were."""
        run = self.run
        blocks = self._missing() if shard is None else self._missing_of(shard)
        made = (run.folder, self.recipe, self.engine, blocks, self.fingerprint)
        steps = compute_blocks(*made) if plan is None else compute_edges(*made, plan)
        wanted, done, adopted = sum(b - a for a, b in blocks), 0, time.monotonic()
        try:
            for row0, row1 in steps:
                done += row1 - row0
                tell(row1 - row0, wanted)
                if shard is None and time.monotonic() - adopted > _ADOPT_S:
                    run.adopt_blocks()
                    adopted = time.monotonic()
        finally:
            if shard is None:
                run.adopt_blocks()
        return done

    def _missing(self) -> list[tuple[int, int]]:
        self.run.adopt_blocks()
        self.run.drop_damaged_blocks()
        return self.run.missing_blocks(len(self.recipe.paths), ROWS_PER_BLOCK)

    def _missing_of(self, shard: Shard) -> list[tuple[int, int]]:
        """Return a job's own blocks that have no file; the database is for `merge` alone."""
        expected, count = layout(self.run), len(self.recipe.paths)
        every = [
            (row0, min(row0 + ROWS_PER_BLOCK, count)) for row0 in range(0, count, ROWS_PER_BLOCK)
        ]
        return [
            (row0, row1)
            for place, (row0, row1) in enumerate(every)
            if shard.takes(place) and not _is_made(self.run, expected, row0)
        ]


def _is_made(run: RunStore, expected: Layout, row0: int) -> bool:
    """Return whether a block of this matrix has its manifest, which is written last."""
    path = run.folder / manifest_file(expected.kind, row0)
    try:
        return json.loads(path.read_bytes())["fingerprint"] == expected.fingerprint
    except (OSError, ValueError, KeyError):
        return False


def merge(path: Path) -> int:
    """Register the blocks that shards have written; fill the tables where all are there.

    Returns:
        Rows that are still missing.
    """
    with open_run(path) as run:
        run.adopt_blocks()
        expected = layout(run)
        missing = sum(b - a for a, b in run.missing_blocks(expected.n, ROWS_PER_BLOCK))
        if not missing and "distances_table" not in run.metadata():
            run.materialise_distances(TABLE_LIMIT)
        return missing


def _finish(run: RunStore, worker: RowsWorker, plan: EdgePlan | None, edges: int) -> float | None:
    """Fill the tables once the matrix is whole; measure the recall of edges."""
    known = run.metadata()
    if "distances_table" not in known:
        run.materialise_distances(TABLE_LIMIT, edges or _EDGES)
    if plan is None:
        return None
    if "knn_recall" not in known:
        recall = measure_recall(worker, plan, run.gains())
        _log.info("recall@10 of the candidates: %.3f", recall)
        run.set_metadata({"knn_recall": repr(recall)})
    return float(run.metadata()["knn_recall"])
