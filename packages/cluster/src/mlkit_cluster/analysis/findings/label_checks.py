"""Labels that a confident detector contradicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

FORMULAS = {
    "missing label": "confidence * (1 - iou)",
    "wrong class": "confidence * iou",
    "spurious label": "1 - iou",
}


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images, in any order.

    Args:
        images: `[B]`, whose they are.
        boxes_xyxy: `[B, 4]`, pixels of one frame for predictions and labels alike.
        labels: `[B]`, classes.
        scores: `[B]`, confidences 0..1; None for labels.
    """

    images: NDArray[np.integer]
    boxes_xyxy: NDArray[np.floating]
    labels: NDArray[np.integer]
    scores: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.boxes_xyxy.shape != (count, 4) or self.labels.shape != (count,):
            got = f"{list(self.boxes_xyxy.shape)} and {list(self.labels.shape)}"
            raise InputError(f"boxes: expected [{count}, 4] and labels [{count}], got {got}")
        if self.scores is not None and self.scores.shape != (count,):
            raise InputError(f"boxes: expected scores [{count}], got {list(self.scores.shape)}")


@dataclass(frozen=True)
class LabelThresholds:
    """From when on a prediction contradicts a label.

    Args:
        missing_confidence: Least confidence of a prediction without label.
        missing_iou: Every label's IoU with it is below this.
        wrong_confidence: Least confidence of a prediction of another class.
        wrong_iou: Least IoU of a match, with the wrong class or with the right one.
        spurious_iou: Every prediction's IoU with a spurious label is below this.
    """

    missing_confidence: float = 0.5
    missing_iou: float = 0.5
    wrong_confidence: float = 0.5
    wrong_iou: float = 0.5
    spurious_iou: float = 0.1


@dataclass(frozen=True)
class LabelFinding:
    """One label, or the lack of one, to look at.

    Args:
        kind: "missing label", "wrong class" or "spurious label".
        image: Where.
        box_xyxy: Of the prediction where a label is missing, else of the label.
        label: Class of the label; None where it is missing.
        predicted: Class of the prediction; None where nothing is predicted.
        score: By `formula`, 0..1.
        formula: What the score is; `iou` in it is the field `iou`.
        iou: Of the prediction and the label; 0 where the image has none to compare with.
        row: Position of the box in the predictions where a label is missing, else in the labels.
    """

    kind: Literal["missing label", "wrong class", "spurious label"]
    image: int
    box_xyxy: tuple[float, float, float, float]
    label: int | None
    predicted: int | None
    score: float
    formula: str
    iou: float
    row: int


def box_ious(
    boxes_xyxy: NDArray[np.floating], others_xyxy: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return intersection over union `[A, B]`; 0 where both boxes are empty."""
    one, other = boxes_xyxy[:, None].astype(np.float64), others_xyxy[None].astype(np.float64)
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(-1) for box in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared / np.where(union > 0, union, 1)


def suspicious_labels(
    predictions: Boxes,
    labels: Boxes,
    labelled: Iterable[int],
    thresholds: LabelThresholds | None = None,
) -> list[LabelFinding]:
    """Return what contradicts the labels, by kind and then the highest score first.

    "missing label": a confident prediction that no label of any class overlaps. "wrong class": a
    label that a confident prediction of another class covers, while no prediction of its own class
    does, and that prediction covers no label of its own class; once for each label, by the best
    prediction. "spurious label": a label that no prediction of any class touches.

    Args:
        predictions: With scores.
        labels: Of the images in `labelled`.
        labelled: Images whose labels are known, those with an empty list of labels included. The
            others are not looked at: without labels, every prediction would be missing one.
        thresholds: `LabelThresholds()` if None.

    Raises:
        InputError: For predictions without scores.
    """
    if predictions.scores is None:
        raise InputError("predictions: need scores")
    limits = thresholds or LabelThresholds()
    found: list[LabelFinding] = []
    rows_of = (_rows_by_image(predictions.images), _rows_by_image(labels.images))
    for image in sorted(set(labelled)):
        guessed, given = (rows.get(image, np.empty(0, np.int64)) for rows in rows_of)
        if not len(guessed) and not len(given):
            continue
        ious = box_ious(predictions.boxes_xyxy[guessed], labels.boxes_xyxy[given])  # [P, G]
        scene = _Scene(image, predictions, labels, guessed, given, ious)
        found += [*_missing(scene, limits), *_wrong(scene, limits), *_spurious(scene, limits)]
    kinds = list(FORMULAS)
    return sorted(found, key=lambda f: (kinds.index(f.kind), -f.score, f.image, f.row))


@dataclass(frozen=True)
class _Scene:
    """One image: rows of its predictions and labels, and their IoU."""

    image: int
    predictions: Boxes
    labels: Boxes
    guessed: NDArray[np.int64]
    given: NDArray[np.int64]
    ious: NDArray[np.float64]

    @property
    def scores(self) -> NDArray[np.float64]:
        assert self.predictions.scores is not None  # checked once for all images
        return self.predictions.scores[self.guessed].astype(np.float64)


def _missing(scene: _Scene, limits: LabelThresholds) -> list[LabelFinding]:
    best = scene.ious.max(1, initial=0)
    alone = (scene.scores >= limits.missing_confidence) & (best < limits.missing_iou)
    return [
        LabelFinding(
            kind="missing label",
            image=scene.image,
            box_xyxy=_box(scene.predictions, row),
            label=None,
            predicted=int(scene.predictions.labels[row]),
            score=float(scene.scores[place] * (1 - best[place])),
            formula=FORMULAS["missing label"],
            iou=float(best[place]),
            row=row,
        )
        for place, row in _places(alone, scene.guessed)
    ]


def _wrong(scene: _Scene, limits: LabelThresholds) -> list[LabelFinding]:
    if not scene.ious.size:
        return []
    same = scene.predictions.labels[scene.guessed, None] == scene.labels.labels[scene.given]
    match = scene.ious >= limits.wrong_iou
    right = match & same
    doubts = match & ~right.any(1, keepdims=True) & ~right.any(0)
    doubts &= (scene.scores >= limits.wrong_confidence)[:, None]
    scores = np.where(doubts, scene.scores[:, None] * scene.ious, -1)
    found = []
    for place in np.flatnonzero(doubts.any(0)):
        by, row = int(scores[:, place].argmax()), int(scene.given[place])
        found.append(
            LabelFinding(
                kind="wrong class",
                image=scene.image,
                box_xyxy=_box(scene.labels, row),
                label=int(scene.labels.labels[row]),
                predicted=int(scene.predictions.labels[scene.guessed[by]]),
                score=float(scores[by, place]),
                formula=FORMULAS["wrong class"],
                iou=float(scene.ious[by, place]),
                row=row,
            )
        )
    return found


def _spurious(scene: _Scene, limits: LabelThresholds) -> list[LabelFinding]:
    best = scene.ious.max(0, initial=0)
    return [
        LabelFinding(
            kind="spurious label",
            image=scene.image,
            box_xyxy=_box(scene.labels, row),
            label=int(scene.labels.labels[row]),
            predicted=None,
            score=float(1 - best[place]),
            formula=FORMULAS["spurious label"],
            iou=float(best[place]),
            row=row,
        )
        for place, row in _places(best < limits.spurious_iou, scene.given)
    ]


def _places(chosen: NDArray[np.bool_], rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return position within the image, and row among all boxes, of the chosen ones."""
    return [(int(place), int(rows[place])) for place in np.flatnonzero(chosen)]


def _box(boxes: Boxes, row: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = boxes.boxes_xyxy[row].tolist()
    return left, top, right, bottom


def _rows_by_image(images: NDArray[np.integer]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(images, kind="stable")
    names, starts = np.unique(images[order], return_index=True)
    parts = np.split(order, starts[1:])
    return dict(zip(names.tolist(), parts, strict=False))
