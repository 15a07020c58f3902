"""What all metrics read: an image, the classes asked of it, true and found boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlkit_core.errors import DataError, TrainingError
from mlkit_core.types import BoxPrediction
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from mlkit_core.types import Batch, Letterbox, Prediction, SampleMeta

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ASKED = "asked"  # the data's role


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image in original pixels.

    Args:
        xyxy: `[M, 4]`.
        classes: `[M]`, indices of the data's classes.
        scores: `[M]`; all 1 for true boxes.
        crowd: `[M]` bool, true regions in which a found box is neither right nor wrong.
    """

    xyxy: Floats
    classes: Ints
    scores: Floats
    crowd: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        xyxy: Floats,
        classes: Ints,
        scores: Floats | None = None,
        crowd: NDArray[np.bool_] | None = None,
    ) -> Boxes:
        """Return boxes; all scores 1 and no crowds where they are not given."""
        count = len(classes)
        return cls(
            xyxy=np.asarray(xyxy, np.float64).reshape(count, 4),
            classes=np.asarray(classes, np.int64),
            scores=np.ones(count) if scores is None else np.asarray(scores, np.float64),
            crowd=np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        )

    def __getitem__(self, kept: NDArray[np.bool_] | Ints) -> Boxes:
        return Boxes(self.xyxy[kept], self.classes[kept], self.scores[kept], self.crowd[kept])


@dataclass(frozen=True)
class AskedFrame:
    """One image of an evaluation. An image that is asked twice, in two rows, is two.

    Args:
        key: Stable name of the image.
        asked: Indices of the classes that were looked for, ascending.
        true: Boxes of those classes.
        found: Predicted boxes of those classes, by falling score.
        background: It is known to show none of the support's objects.
        objects: How many annotated objects of any class it shows; None: not known.
        shots: Real reference photos of each asked class.
        extra: Further plain values of its meta.
    """

    key: str
    asked: tuple[int, ...]
    true: Boxes
    found: Boxes
    background: bool = False
    objects: int | None = None
    shots: tuple[int, ...] = ()
    extra: Mapping[str, str | float | int | bool | None] = field(default_factory=dict)

    @property
    def order(self) -> tuple[object, ...]:
        """What frames are sorted by, so that nothing depends on which rank saw one."""
        found = (*self.found.scores.tolist(), *self.found.xyxy.ravel().tolist())
        return self.key, self.asked, str(sorted(self.extra.items())), found


def asked_frames(metric: str, predictions: Sequence[Prediction], batch: Batch) -> list[AskedFrame]:
    """Return the images of a batch, true boxes in original pixels.

    Labels of target and predictions are rows of the support; `class_ids` makes classes of them.
    What was not asked of an image counts neither as true nor as found. Where the batch does not
    say what was asked, every class of the support was.

    Raises:
        TrainingError: The target is no `ReferenceTarget`.
        DataError: A prediction is none of boxes, or of a label that the support does not have.
    """
    target = batch.target
    if not isinstance(target, ReferenceTarget):
        got = type(target).__name__
        raise TrainingError(f"{metric}: expected a ReferenceTarget, got {got}")
    class_ids = _ints(target.class_ids)
    frames = []
    rows = zip(predictions, batch.meta, _asked(batch, len(class_ids)), strict=True)
    for row, (prediction, meta, asked) in enumerate(rows):
        objects = meta.extra.get("objects")
        frame = AskedFrame(
            key=meta.key,
            asked=tuple(sorted(class_ids[asked].tolist())),
            true=_true(target, row, meta.letterbox, class_ids, asked),
            found=_found(metric, prediction, meta, class_ids, asked),
            background=bool(target.background[row]),
            objects=None if objects is None else int(objects),
            shots=_shots(batch, asked),
            extra=dict(meta.extra),
        )
        frames.append(frame)
    return frames


def _asked(batch: Batch, classes: int) -> list[Ints]:
    """Return for each row which rows of the support were asked of it."""
    values = batch.inputs.get(ASKED)
    if values is None and ASKED in batch.features:
        values = batch.features[ASKED].vector
    if values is None:
        return [np.arange(classes)] * len(batch.meta)
    return [np.unique(row[row >= 0]) for row in _ints(values)]


def _true(
    target: ReferenceTarget, row: int, box: Letterbox | None, class_ids: Ints, asked: Ints
) -> Boxes:
    labels = _ints(target.labels[row])
    kept = np.isin(labels, asked) & (labels >= 0)
    xyxy = target.boxes_xyxy[row].detach().cpu().double().numpy()[kept]
    if box is not None:
        top, left = box.offset
        xyxy = (xyxy - (left, top, left, top)) / box.scale
    return Boxes.of(xyxy, class_ids[labels[kept]])


def _found(
    metric: str, prediction: Prediction, meta: SampleMeta, class_ids: Ints, asked: Ints
) -> Boxes:
    if not isinstance(prediction, BoxPrediction):
        got = type(prediction).__name__
        raise DataError(f"{metric}: {meta.key}: expected boxes, got {got}")
    labels = _ints(prediction.labels)
    unknown = labels[(labels < 0) | (labels >= len(class_ids))]
    if unknown.size:
        have = f"{len(class_ids)} support classes"
        raise DataError(f"{metric}: {meta.key}: labels {np.unique(unknown).tolist()}, {have}")
    scores = prediction.scores.detach().cpu().double().numpy()
    xyxy = prediction.boxes_xyxy.detach().cpu().double().numpy()
    found = Boxes.of(xyxy, class_ids[labels], scores)[np.isin(labels, asked)]
    return found[np.argsort(-found.scores, kind="stable")]


def _shots(batch: Batch, asked: Ints) -> tuple[int, ...]:
    valid = batch.valid.get("support")
    if valid is None and "support" in batch.features:
        valid = batch.features["support"].valid
    if valid is None:
        return ()
    counts = valid.sum(-1).cpu().tolist()
    return tuple(int(counts[row]) for row in asked)


def _ints(values: Tensor) -> Ints:
    return values.detach().cpu().long().numpy()
