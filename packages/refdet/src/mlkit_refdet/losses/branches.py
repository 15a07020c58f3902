"""The head's branches as rows of one detector, with their truth and one shared assignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlkit_core.errors import BuildError
from mlkit_refdet.head.geometry import distances_to_boxes, expectation
from mlkit_refdet.losses.assignment import Assignment, task_aligned
from mlkit_refdet.results import ReferenceLogits
from mlkit_refdet.targets import ReferenceTarget

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from mlkit_core.types import Batch, ModelOutput, Step
    from mlkit_refdet.results import BranchLogits

Branch = Literal["standard", "pairs"]


@dataclass(frozen=True)
class DenseRows:
    """One branch's output and truth; R rows that count, A anchors, M boxes.

    Args:
        distances: `[R, A, 4 * BINS]`, logits.
        logits: `[R, A, C]`, before the sigmoid.
        boxes_xyxy: `[R, A, 4]`, decoded, without gradient, input pixels; see `positive_boxes`.
        points: `[A, 2]`, input pixels.
        strides: `[A]`, input pixels.
        truth_boxes: `[R, M, 4]`, input pixels.
        truth_labels: `[R, M]`, column of `logits`; -1 where there is no box.
        rows: `[R]`, which row of the head's output each is.
        classes: `[R]`, support class of a pair; empty in the standard branch.
        assignment: Of anchors to boxes.
    """

    distances: Tensor
    logits: Tensor
    boxes_xyxy: Tensor
    points: Tensor
    strides: Tensor
    truth_boxes: Tensor
    truth_labels: Tensor
    rows: Tensor
    classes: Tensor
    assignment: Assignment

    def positive_boxes(self) -> Tensor:
        """Return the boxes of positive anchors, `[P, 4]`, with gradient.

        They are decoded anew: a gradient through all anchors would be zeros but for these.
        """
        found = self.assignment
        expected = expectation(self.distances[found.rows, found.anchors])
        return distances_to_boxes(expected, self.points[found.anchors], self.strides[found.anchors])


def live_branches(
    output: ModelOutput, batch: Batch, step: Step, weights: Mapping[Branch, float | None]
) -> Iterator[tuple[Branch, float, DenseRows]]:
    """Yield name, weight and rows of each branch that counts.

    Args:
        output: Its head's output is read.
        batch: Its target is read.
        step: Rows and assignment are made once for each batch.
        weights: None: 1 where the head has the branch; 0: left out.

    Raises:
        BuildError: A branch with a weight of its own is missing, or none is left.
    """
    head = output.head
    given: list[Branch] = [name for name in weights if getattr(head, name, None) is not None]
    missing = [name for name, weight in weights.items() if weight and name not in given]
    live: list[Branch] = [name for name in given if weights[name] != 0]
    if missing or not live:
        wanted = " and ".join(missing) or "standard or pairs"
        got = " and ".join(given) or "none"
        raise BuildError(
            f"detection loss: needs the head's {wanted} logits, got {got}",
            hint="set the head's mode, or the weight of the branch to 0",
        )
    for name in live:
        weight = weights[name]
        yield name, 1.0 if weight is None else weight, dense_rows(output, batch, step, name)


def dense_rows(output: ModelOutput, batch: Batch, step: Step, branch: Branch) -> DenseRows:
    """Return a branch's rows, made once for each batch."""
    head, target = head_and_target(output, batch)
    make = _standard_rows if branch == "standard" else _pair_rows
    return step.once(("detection rows", branch), lambda: make(head, target))


def head_and_target(output: ModelOutput, batch: Batch) -> tuple[ReferenceLogits, ReferenceTarget]:
    """Return the head's output and the target, of refdet's types.

    Raises:
        BuildError: One is missing or of another type.
    """
    head, target = output.head, batch.target
    if not isinstance(head, ReferenceLogits) or not isinstance(target, ReferenceTarget):
        got = f"{type(head).__name__} and {type(target).__name__}"
        raise BuildError(f"detection loss: needs ReferenceLogits and ReferenceTarget, got {got}")
    return head, target


def _standard_rows(head: ReferenceLogits, target: ReferenceTarget) -> DenseRows:
    """Rows are images, columns the batch's support classes, each once.

    A class that the support holds twice, by different photos, has one logit: in two columns it
    would learn one box's class as true and as false. Columns of other classes are left out: the
    target does not say whether an image shows them.
    """
    given = _branch(head, "standard")
    classes, column = target.class_ids.unique(return_inverse=True)
    labels = target.labels.long().clone()  # [B, M]
    labels[labels >= 0] = column[labels[labels >= 0]]
    _check_rows("standard", len(given.logits), len(labels))
    highest = int(classes.max()) if len(classes) else -1
    if highest >= given.logits.shape[-1]:
        raise BuildError(
            f"standard branch: has {given.logits.shape[-1]} classes, the target's highest is "
            f"{highest}",
            hint="a class that is new to the head has no standard logit; weigh pairs alone",
        )
    columns = given.logits.index_select(-1, classes)
    rows = labels.new_ones(len(labels)).cumsum(0) - 1
    truth = target.boxes_xyxy, labels
    return _assigned(head, (given.distances, columns), truth, (rows, rows[:0]))


def _pair_rows(head: ReferenceLogits, target: ReferenceTarget) -> DenseRows:
    """Rows are pairs of image and asked class; boxes of other classes are background there."""
    given, asked = _branch(head, "pairs"), head.asked
    if asked is None:
        raise BuildError("pairs: the head's output does not say which classes were asked")
    _check_rows("pairs", asked.shape[0], len(target.labels))
    _check_rows("pairs", len(given.logits), asked.numel())
    _check_asked(asked, target)
    kept = (asked.flatten() >= 0).nonzero()[:, 0]  # [R]
    classes, images = asked.flatten()[kept], kept // asked.shape[1]
    other = target.labels[images] != classes[:, None]  # [R, M]
    labels = target.labels.new_zeros(other.shape).masked_fill(other, -1)
    dense = (given.distances, given.logits)
    if len(kept) < asked.numel():
        dense = (given.distances[kept], given.logits[kept])
    return _assigned(head, dense, (target.boxes_xyxy[images], labels), (kept, classes))


def _assigned(
    head: ReferenceLogits,
    dense: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
    rows: tuple[Tensor, Tensor],
) -> DenseRows:
    (distances, logits), (truth_boxes, truth_labels) = dense, truth
    boxes = distances_to_boxes(expectation(distances.detach()), head.points, head.strides)
    truth_boxes, truth_labels = truth_boxes.to(boxes.dtype), truth_labels.long()
    assignment = task_aligned(
        logits.detach().sigmoid(),
        boxes,
        (head.points, head.strides),
        truth_boxes,
        truth_labels,
    )
    return DenseRows(
        distances,
        logits,
        boxes,
        head.points,
        head.strides,
        truth_boxes,
        truth_labels,
        *rows,
        assignment,
    )


def _branch(head: ReferenceLogits, name: Branch) -> BranchLogits:
    given = head.standard if name == "standard" else head.pairs
    if given is None:
        raise BuildError(f"detection loss: needs the head's {name} logits, got none")
    return given


def _check_rows(branch: Branch, got: int, wanted: int) -> None:
    if got != wanted:
        raise BuildError(f"{branch} branch: {got} rows of logits do not fit {wanted} of the target")


def _check_asked(asked: Tensor, target: ReferenceTarget) -> None:
    highest, count = int(asked.max()) if asked.numel() else -1, len(target.class_ids)
    if highest >= count:
        raise BuildError(f"asked: class {highest}, but the support has {count} classes")
