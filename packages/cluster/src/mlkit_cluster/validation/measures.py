"""Checks of metrics and losses: counted again, NULL where unknown, and no column made up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlkit_cluster.validation.findings import Finding, close, constant, replicated, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_cluster.validation.view import RunView

    Row = dict[str, Any]

LOSSES = ("box_loss", "cls_loss", "dfl_loss", "seg_loss")
_OF_LABELS = ("n_match", "mean_iou", "hit_freq", "precision", "mean_conf_matched", "dice_score")
_FLAGS = ("flag_cat", "flag_supercat")
_SHARES = ("hit_freq", "mean_iou", "mean_conf", "mean_conf_matched", "precision", "dice_score")
_ROWS = """
SELECT e.*, (SELECT COUNT(*) FROM predictions p WHERE p.img_id = e.img_id) AS predictions,
  (SELECT AVG(confidence) FROM predictions p WHERE p.img_id = e.img_id) AS confidence,
  (SELECT COUNT(*) FROM labels l WHERE l.img_id = e.img_id) AS labels,
  (SELECT class_id FROM labels l WHERE l.img_id = e.img_id GROUP BY class_id
   ORDER BY COUNT(*) DESC, class_id LIMIT 1) AS flag
FROM embeddings e WHERE encoder = 'yolo' ORDER BY img_id
"""


def check_nulls(view: RunView) -> Finding:
    """What is unknown is NULL: without labels, without objects, and for other encoders."""

    def problems() -> Iterator[str]:
        unlabelled = view.metadata.get("labels") == ""
        for row in view.records(_ROWS):
            if unlabelled and row["n_gt"] is not None:
                yield f"image {row['img_id']}: has n_gt, but the run has no labels"
            for problem in _null_problems(row):
                yield f"image {row['img_id']}: {problem}"
        names = (*LOSSES, *_OF_LABELS, *_FLAGS, "mean_conf", "n_gt", "n_pred", "n_pos", "score_sum")
        known = " OR ".join(f"{name} IS NOT NULL" for name in names)
        query = f"SELECT img_id, encoder FROM embeddings WHERE encoder != 'yolo' AND ({known})"
        for img_id, encoder in view.rows(query):
            yield f"image {img_id}: metrics or losses in the row of {encoder!r}"

    return verdict("NULLs", problems(), "nothing unknown has a value")


def _null_problems(row: Row) -> Iterator[str]:
    if (row["mean_conf"] is None) != (row["predictions"] == 0):
        yield "mean_conf must be NULL without detections, and only then"
    if row["n_gt"] is None:
        given = (*LOSSES, *_OF_LABELS, *_FLAGS, "n_pos", "score_sum")
        for name in given:
            if row[name] is not None:
                yield f"{name} is {row[name]!r} without labels"
        if row["labels"]:
            yield "has labels, but no n_gt"
    else:
        yield from _labelled_problems(row)


def _labelled_problems(row: Row) -> Iterator[str]:
    for name in ("n_match", "mean_iou", "cls_loss", "flag_cat"):
        if row[name] is None:
            yield f"{name} is NULL with labels"
    for name in ("box_loss", "dfl_loss", *(("seg_loss",) if row["n_gt"] == 0 else ())):
        if (row[name] is None) != (row["n_gt"] == 0):
            yield f"{name} is {row[name]!r} with {row['n_gt']} objects"
    if (row["mean_conf_matched"] is None) != (not row["n_match"]):
        yield "mean_conf_matched must be NULL without matches, and only then"


def check_metrics(view: RunView) -> Finding:
    """Counts, shares and flags are what predictions and labels give."""
    rows = view.records(_ROWS)

    def problems() -> Iterator[str]:
        for row in rows:
            for name, got, expected in (*_counted(row), *_shares(row)):
                if got is None or not close(got, expected, 1e-4):
                    yield f"image {row['img_id']}: {name} is {got!r}, its rows give {expected:.6g}"
            for name in _SHARES:
                if row[name] is not None and not 0 <= row[name] <= 1 + 1e-6:
                    yield f"image {row['img_id']}: {name} is {row[name]!r}"
            if row["n_match"] and not row["mean_iou"]:
                yield f"image {row['img_id']}: {row['n_match']} matches, but mean_iou is 0"

    return verdict("metrics", problems(), f"counted again for {len(rows)} images")


def _counted(row: Row) -> Iterator[tuple[str, float | None, float]]:
    yield "n_pred", row["n_pred"], row["predictions"]
    if row["predictions"]:
        yield "mean_conf", row["mean_conf"], row["confidence"]
    if row["n_gt"] is not None:
        yield "n_gt", row["n_gt"], row["labels"]
        yield "flag_cat", row["flag_cat"], -1 if row["flag"] is None else row["flag"]


def _shares(row: Row) -> Iterator[tuple[str, float | None, float]]:
    objects, found, matches = row["n_gt"], row["n_pred"] or 0, row["n_match"] or 0
    if objects is None:
        return
    if objects:
        yield "hit_freq", row["hit_freq"], matches / objects
    if found:
        yield "precision", row["precision"], matches / found
    if not matches:
        yield "mean_iou", row["mean_iou"], 0.0 if objects or found else 1.0


def check_losses(view: RunView) -> Finding:
    """Losses are finite, not 0 throughout, not one value, not a batch's value repeated."""
    rows = view.records("SELECT * FROM embeddings WHERE encoder = 'yolo' ORDER BY img_id")
    inputs = [row["embedding"] for row in rows]

    def problems() -> Iterator[str]:
        for name in (*LOSSES, "mean_iou", "mean_conf"):
            values = [row[name] for row in rows]
            for row, value in zip(rows, values, strict=True):
                if value is not None and not (math.isfinite(value) and value >= -1e-4):
                    yield f"image {row['img_id']}: {name} is {value!r}"
            pairs = zip(rows, values, strict=True)
            whole = [v if r["n_gt"] and r["n_pos"] != 0 else None for r, v in pairs]
            if name in LOSSES and (said := constant(whole, inputs)):
                yield f"{name} is {said}"
            if (said := replicated(_between(values), inputs)) is not None:
                yield f"{name} is repeated from one image to the next in {said[0]} of {said[1]}"

    return verdict("losses", problems(), f"{len(rows)} images, each with its own")


def _between(values: list[float | None]) -> list[float | None]:
    """Return values, None for the ends 0 and 1, which metrics of different images may share."""
    return [None if value in (0, 1) else value for value in values]


MEASURE_CHECKS = (check_nulls, check_metrics, check_losses)
