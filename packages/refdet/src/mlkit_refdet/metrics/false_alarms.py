"""The metric `false-alarms`: what is reported where the asked object is not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlkit_refdet.metrics.alarm_rates import (
    auroc,
    rate,
    recall_at,
    score_at,
    threshold_at_recall,
    threshold_keeping,
)
from mlkit_refdet.metrics.frames import asked_frames
from mlkit_refdet.metrics.matching import hits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlkit_core.types import Batch, Prediction
    from mlkit_refdet.metrics.frames import AskedFrame

    Floats = NDArray[np.float64]

LOG = logging.getLogger("mlkit")
Kind = Literal["present", "background", "distractor", "absent"]
_SETS: dict[str, tuple[Kind, ...]] = {
    "background": ("background",),
    "distractor": ("distractor",),
    "absent": ("background", "distractor", "absent"),
}
_KEPT, _RECALL, _BUDGET, _FPPI_RECALL = (0.7, 0.8), 0.7, 0.1, 0.8


@dataclass(frozen=True)
class Pair:
    """One image and one class that was asked of it.

    Args:
        image: The image's key.
        label: The class.
        kind: "present"; or of an image without it, "background" that shows nothing annotated,
            "distractor" that shows other objects, "absent" where neither is known.
        true: Number of true boxes.
        hits: Scores of the boxes that hit.
        alarms: Scores of those that do not.
    """

    image: str
    label: int
    kind: Kind
    true: int
    hits: tuple[float, ...]
    alarms: tuple[float, ...]

    @property
    def best(self) -> float:
        """The greatest score, -inf where nothing was found."""
        return max((*self.hits, *self.alarms), default=-np.inf)


def pairs_of(frame: AskedFrame, iou: float) -> list[Pair]:
    """Return one pair for each class asked of an image."""
    found_pairs: list[Pair] = []
    for label in frame.asked:
        true = frame.true.xyxy[frame.true.classes == label]
        found = frame.found[frame.found.classes == label]
        right = hits(found.xyxy, true, iou)
        kind: Kind = "present" if len(true) else _absent_kind(frame)
        scores = (tuple(found.scores[kept].tolist()) for kept in (right, ~right))
        found_pairs.append(Pair(frame.key, label, kind, len(true), *scores))
    return found_pairs


def _absent_kind(frame: AskedFrame) -> Kind:
    """Say what an image without the asked class shows, as far as that is known."""
    if frame.objects is not None:
        return "distractor" if frame.objects else "background"
    if len(frame.true.classes):
        return "distractor"
    return "background" if frame.background else "absent"


class FalseAlarms:
    """Gathers (image, class) pairs, and compares false alarms at equal hits.

    A box hits if it overlaps a true box of its class by `iou` or more and is the best to do so;
    any other box is a false alarm. Rates are as `alarm_rates` defines them. Values, for each set
    S of pairs without the object ("background", "distractor", "absent": all of them):

    - `fp70_S`, `fp80_S`: false alarms a pair, keeping 70 and 80 % of the model's own hits
    - `fp_recall70_S`: false alarms a pair at a recall of .70
    - `recall_fp10_S`: recall at 0.1 false alarms a pair
    - `auroc_S`: best score of pairs with against pairs without
    - `frames70_S`, `frames80_S`: share of images all of whose pairs are in S, with any box at all

    and, over everything: `fppi_recall80`, false alarms of all pairs by image at a recall of .80;
    `hits`, the greatest recall; `score_fp10`, the score from which there are 0.1 false alarms a
    pair in "absent", which `mlkit refdet find` goes by. Whether an image shows other objects is
    what `meta.extra`'s "objects" says (annotated objects of any class, a number); where it is not
    there, a frame known to show none of the support's objects counts as background.

    Args:
        iou: Overlap from which a box is a hit.
    """

    def __init__(self, iou: float = 0.5) -> None:
        if not 0 < iou < 1:
            raise ValueError(f"iou must lie between 0 and 1, got {iou}")
        self.iou = iou
        self._images: list[list[Pair]] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the pairs of a batch."""
        for frame in asked_frames("false-alarms", predictions, batch):
            self._images.append(pairs_of(frame, self.iou))

    def state(self) -> list[list[Pair]]:
        """Return the pairs so far, image by image."""
        return list(self._images)

    def merge(self, state: Sequence[list[Pair]]) -> None:
        """Add another rank's pairs."""
        self._images += state

    def compute(self) -> Mapping[str, float]:
        """Return all rates. What has no meaning here is left out, and the log says so."""
        pairs = [pair for image in self._images for pair in image]
        present = [pair for pair in pairs if pair.kind == "present"]
        found = _scores(pair.hits for pair in pairs)
        true = sum(pair.true for pair in pairs)
        values: dict[str, float | None] = {"hits": len(found) / true if true else None}
        reached = threshold_at_recall(found, true, _FPPI_RECALL)
        everywhere = _scores(pair.alarms for pair in pairs)
        many = len(self._images)
        values["fppi_recall80"] = rate(everywhere, reached, many)
        for name, kinds in _SETS.items():
            group = [pair for pair in pairs if pair.kind in kinds]
            rates = self._rates(present, group, true)
            values |= {f"{key}_{name}": value for key, value in rates.items()}
            values |= {f"{key}_{name}": v for key, v in self._frame_rates(found, kinds).items()}
        absent = [pair for pair in pairs if pair.kind != "present"]
        alarms = _scores(pair.alarms for pair in absent)
        values["score_fp10"] = score_at(alarms, len(absent), _BUDGET) if absent else None
        missing = [name for name, value in values.items() if value is None]
        if missing:
            why = "no such pairs, or too few hits; left out"
            LOG.info("false-alarms: %s: %s", why, ", ".join(missing))
        known = {name: value for name, value in values.items() if value is not None}
        return known | self._counts(pairs)

    def _rates(
        self, present: Sequence[Pair], group: Sequence[Pair], true: int
    ) -> dict[str, float | None]:
        found = _scores(pair.hits for pair in present)
        alarms = _scores(pair.alarms for pair in group)
        many, level = len(group), threshold_at_recall(found, true, _RECALL)
        values: dict[str, float | None] = {}
        for share in _KEPT:
            kept = threshold_keeping(found, share)
            values[f"fp{100 * share:.0f}"] = rate(alarms, kept, many)
        values["fp_recall70"] = rate(alarms, level, many)
        both = true > 0 and many > 0
        values["recall_fp10"] = recall_at(found, true, alarms, many, _BUDGET) if both else None
        best = [np.array([pair.best for pair in side]) for side in (present, group)]
        values["auroc"] = auroc(*best) if present and many else None
        return values

    def _frame_rates(self, found: Floats, kinds: tuple[Kind, ...]) -> dict[str, float | None]:
        """Return the share of images with any box, of those all of whose pairs are of `kinds`."""
        empty = [image for image in self._images if all(p.kind in kinds for p in image)]
        best = np.array([max((p.best for p in image), default=-np.inf) for image in empty])
        values: dict[str, float | None] = {}
        for share in _KEPT:
            kept = threshold_keeping(found, share)
            values[f"frames{100 * share:.0f}"] = rate(best, kept, len(empty))
        return values

    def _counts(self, pairs: Sequence[Pair]) -> dict[str, float]:
        kinds: tuple[Kind, ...] = ("present", "background", "distractor", "absent")
        counts = {f"pairs_{k}": float(sum(p.kind == k for p in pairs)) for k in kinds}
        counts["pairs_unknown"] = counts.pop("pairs_absent")
        return counts | {"images": float(len(self._images))}


def _scores(parts: Any) -> Floats:  # noqa: ANN401  # an iterable of tuples
    return np.array([score for part in parts for score in part], np.float64)
