"""What a run holds, as arrays and plain values, for reports and analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.files import disk_errors
from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlkit_cluster.store.database import RunStore

SCORES = (
    *("hit_freq", "mean_iou", "mean_conf", "mean_conf_matched", "precision", "dice_score"),
    *("n_gt", "n_pred", "n_match", "flag_cat", "flag_supercat", "n_pos", "score_sum"),
    *("box_loss", "cls_loss", "dfl_loss", "seg_loss"),
)
_BOXES = (
    "img_id, box_x1, box_y1, box_x2, box_y2, input_x1, input_y1, input_x2, input_y2, class_id, mask"
)


@dataclass(frozen=True)
class ImageRow:
    """A row of `images`; width, height and letterbox are None until it is extracted."""

    img_id: int
    path: str
    sha: str | None
    width: int | None
    height: int | None
    split: str | None
    ratio: float | None
    pad_x: int | None
    pad_y: int | None
    error: str | None


@dataclass(frozen=True)
class Instances:
    """Detections or labels of one image, in the order they were written.

    Args:
        boxes: `[n, 4]` float32, xyxy in pixels of the original.
        boxes_input: `[n, 4]` float32, xyxy in pixels of the letterboxed input.
        labels: `[n]` int32.
        scores: `[n]` float32; None for labels.
        masks: RLE blobs; None where no instance has one.
    """

    boxes: np.ndarray
    boxes_input: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None
    masks: tuple[bytes, ...] | None

    def __len__(self) -> int:
        return len(self.labels)


def images(run: RunStore, *, failed: bool = False) -> list[ImageRow]:
    """Return the images in matrix order; with `failed` those that could not be read instead."""
    known = "IS NOT NULL" if failed else "IS NULL"
    query = (
        "SELECT img_id, path, sha, w, h, split, ratio, pad_x, pad_y, error FROM images "
        f"WHERE error {known} ORDER BY img_id"
    )
    return [ImageRow(*row) for row in _rows(run, query)]


def encoders(run: RunStore) -> list[str]:
    """Return the names of the encoders that have rows."""
    return [name for (name,) in _rows(run, "SELECT DISTINCT encoder FROM embeddings ORDER BY 1")]


def embedding_matrix(run: RunStore, encoder: str = "yolo") -> tuple[np.ndarray, np.ndarray]:
    """Return `[N]` int64 image ids and `[N, D]` float32 embeddings, by image id.

    Raises:
        InputError: The encoder has no rows.
        MlkitError: Rows differ in length.
    """
    query = "SELECT img_id, embedding FROM embeddings WHERE encoder = ? ORDER BY img_id"
    rows = list(_rows(run, query, (encoder,)))
    if not rows:
        known = ", ".join(encoders(run)) or "none"
        raise InputError(f"{run.path}: no embeddings of {encoder!r}", hint=f"there are: {known}")
    if len({len(blob) for _, blob in rows}) > 1:
        raise MlkitError(f"{run.path}: embeddings of {encoder!r} differ in length")
    ids = np.array([img_id for img_id, _ in rows], np.int64)
    return ids, np.frombuffer(b"".join(blob for _, blob in rows), "<f4").reshape(len(rows), -1)


def predictions(run: RunStore, img_id: int) -> Instances:
    """Return the stored detections of one image."""
    query = f"SELECT {_BOXES}, confidence FROM predictions WHERE img_id = ? ORDER BY id"
    return _instances(list(_rows(run, query, (img_id,))), scored=True)


def labels(run: RunStore, img_id: int) -> Instances | None:
    """Return the labels of one image; None where they are unknown."""
    known = "SELECT n_gt FROM embeddings WHERE img_id = ? AND encoder = 'yolo'"
    count = next(iter(_rows(run, known, (img_id,))), (None,))[0]
    if count is None:
        return None
    query = f"SELECT {_BOXES} FROM labels WHERE img_id = ? ORDER BY id"
    return _instances(list(_rows(run, query, (img_id,))), scored=False)


def targets(run: RunStore, target_conf: float | None = None) -> list[Instances]:
    """Return for each image, in matrix order, the predictions that serve as targets.

    Args:
        run: Whose.
        target_conf: Smallest confidence; None: as noted in `runs`.
    """
    if target_conf is None:
        row = next(iter(_rows(run, "SELECT target_conf FROM runs WHERE kind = 'yolo'")), (None,))
        target_conf = row[0] or 0.0
    query = (
        f"SELECT {_BOXES}, confidence FROM predictions WHERE confidence >= ? ORDER BY img_id, id"
    )
    found: dict[int, list[tuple]] = {}
    for row in _rows(run, query, (target_conf,)):
        found.setdefault(row[0], []).append(row)
    order = _rows(run, "SELECT img_id FROM images WHERE error IS NULL ORDER BY img_id")
    return [_instances(found.get(img_id, []), scored=True) for (img_id,) in order]


def scores(run: RunStore) -> dict[str, np.ndarray]:
    """Return name to `[N]`: "img_id" int64, metrics, losses and counts float64, NaN for NULL.

    In matrix order; images without a row have NaN throughout.
    """
    query = (
        f"SELECT i.img_id, {', '.join(SCORES)} FROM images i LEFT JOIN embeddings e "
        "ON e.img_id = i.img_id AND e.encoder = 'yolo' WHERE i.error IS NULL ORDER BY i.img_id"
    )
    columns = list(zip(*_rows(run, query), strict=True)) or [()] * (1 + len(SCORES))
    found = {"img_id": np.array(columns[0], np.int64)}
    return found | {
        name: np.array(values, np.float64) for name, values in zip(SCORES, columns[1:], strict=True)
    }


def _rows(run: RunStore, query: str, values: Sequence[object] = ()) -> Iterator[tuple]:
    with disk_errors(run.path):
        yield from run.db.execute(query, values)


def _instances(rows: Sequence[tuple], *, scored: bool) -> Instances:
    boxes = np.array([row[1:9] for row in rows], np.float32).reshape(-1, 8)
    masks = tuple(row[10] for row in rows if row[10] is not None)
    return Instances(
        boxes=boxes[:, :4],
        boxes_input=boxes[:, 4:],
        labels=np.array([row[9] for row in rows], np.int32),
        scores=np.array([row[11] for row in rows], np.float32) if scored else None,
        masks=masks if rows and len(masks) == len(rows) else None,
    )
