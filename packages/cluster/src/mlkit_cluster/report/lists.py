"""The page's lists: hard images, doubtful labels, pairs that contradict, differ or repeat."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.analysis import findings
from mlkit_cluster.report import sparse
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_cluster.report.pairs import Pairs
    from mlkit_cluster.report.source import Boxes, RunData

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

LISTED = 60  # rows of a list
WHOLE = 8000  # images up to which a matrix is read whole: 256 MB
_log = logging.getLogger("mlkit.cluster")


@dataclass(frozen=True)
class PageList:
    """One list of the page.

    Args:
        key: Name for links.
        title: Heading.
        about: What it shows, one or two sentences.
        score: What the number beside each row is.
        rows: Positions (one for images, two for pairs), the number, and words or "".
    """

    key: str
    title: str
    about: str
    score: str
    rows: Sequence[tuple[tuple[int, ...], float, str]]


def image_lists(run: RunData) -> list[PageList]:
    """Return the lists of images that have rows."""
    made = _hardest(run) + _label_findings(run)
    return [entry for entry in made if entry.rows]


def pair_lists(run: RunData, pairs: Pairs, embeddings: Floats) -> list[PageList]:
    """Return the lists of pairs that have rows."""
    if pairs.is_full and len(run) <= WHOLE:
        total = np.concatenate([pairs.total(block, run.gains) for _, block in pairs.row_blocks()])
        made = [*_contradictions(embeddings, total), _asymmetry(total)]
    else:
        made = _among_look_alikes(run, pairs, embeddings)
    made.append(_duplicates(run, embeddings))
    return [entry for entry in made if entry.rows]


_HARDEST = (
    "The greatest losses of the detector's raw output against the image's own labels. Without "
    "labelled objects only cls is defined."
)


def _hardest(run: RunData) -> list[PageList]:
    losses = {name: run.columns[f"{name}_loss"] for name in run.gains}
    known = {name: values for name, values in losses.items() if not np.isnan(values).all()}
    if not known:
        return []
    found = findings.hardest(known, run.gains, top=LISTED)
    found = {"total": found.pop("total"), **found}
    return [
        PageList(
            f"hardest-{name}",
            f"Hardest by {name} loss",
            _HARDEST,
            f"{name} loss",
            [((hard.image,), hard.loss, "") for hard in hard_images],
        )
        for name, hard_images in found.items()
    ]


def _label_findings(run: RunData) -> list[PageList]:
    """Return what the detector's sure predictions say against the labels, by kind."""
    labelled = np.flatnonzero(~np.isnan(run.columns["n_gt"])).tolist()
    if not labelled:
        return []
    predictions = _boxes(run.predictions, scored=True)
    found = findings.suspicious_labels(predictions, _boxes(run.labels, scored=False), labelled)
    made: dict[str, list[tuple[tuple[int, ...], float, str]]] = {}
    formulas: dict[str, str] = {}
    for entry in found:
        formulas[entry.kind] = entry.formula
        rows = made.setdefault(entry.kind, [])
        if len(rows) < LISTED:
            rows.append(((entry.image,), entry.score, _disagreement(run, entry)))
    about = "Sure predictions and the labels disagree here: one of them is wrong."
    return [
        PageList(kind.replace(" ", "-"), f"Suspicious: {kind}", about, formulas[kind], rows)
        for kind, rows in made.items()
    ]


def _boxes(boxes: Boxes, *, scored: bool) -> findings.Boxes:
    owners = np.repeat(np.arange(len(boxes.starts) - 1), np.diff(boxes.starts))
    scores = boxes.confidences if scored else None
    return findings.Boxes(owners, boxes.original_xyxy, boxes.classes, scores)


def _disagreement(run: RunData, entry: findings.LabelFinding) -> str:
    label, predicted = (
        None if number is None else run.names[number] if number < len(run.names) else str(number)
        for number in (entry.label, entry.predicted)
    )
    if label is None:
        return f"{predicted} is not labelled"
    return f"{label} is not found" if predicted is None else f"{label}, or {predicted}?"


def _contradictions(embeddings: Floats, total: Floats) -> list[PageList]:
    """Return pairs near by one measure and far by the other."""
    if not embeddings.shape[1] or np.isnan(embeddings).any():
        return []
    words = (
        ("contradictions", "Contradictions", "Alike by embedding, and yet far by loss"),
        ("unlikely", "Unlikely matches", "Near by loss, and yet unlike by embedding"),
    )
    made: list[PageList] = []
    for (key, title, about), reverse in zip(words, (False, True), strict=True):
        try:
            found = findings.contradictions(embeddings, total, top=LISTED, loss_is_near=reverse)
        except InputError as err:  # fewer than three images
            _log.info("no list of %s: %s", key, err)
            return []
        about += ": the detector sees different things in them." if not reverse else "."
        rows = [((pair.image, pair.other), pair.score, "") for pair in found if pair.score > 0]
        made.append(PageList(key, title, about, "difference of the two ranks", rows))
    return made


_ASYMMETRY = (
    "Image i does not explain the targets of j, but j explains those of i: D_ij is far above D_ji."
)
_RATIO = "(D_ij - D_ji) / (D_ij + D_ji)"


def _asymmetry(total: Floats) -> PageList:
    found = findings.asymmetry(total, top=LISTED).pairs
    rows = [((pair.image, pair.other), pair.score, "") for pair in found]
    return PageList("asymmetry", "Most asymmetric pairs", _ASYMMETRY, _RATIO, rows)


def _among_look_alikes(run: RunData, pairs: Pairs, embeddings: Floats) -> list[PageList]:
    """Return lists from known pairs alone, where the matrix is sparse or too large to read."""
    near = sparse.look_alikes(embeddings)
    costs = sparse.contradictions(run, pairs, near, LISTED)
    uneven = sparse.asymmetric(run, pairs, near, LISTED)
    about = "Alike by embedding, and yet the targets of one do not fit the output of the other."
    cost = "(D_ij + D_ji - D_ii - D_jj) / 2 of the total"
    limited = f"{_ASYMMETRY} Only pairs alike by embedding were compared."
    return [
        PageList("contradictions", "Contradictions", about, cost, _rows(costs)),
        PageList("asymmetry", "Most asymmetric pairs", limited, _RATIO, _rows(uneven)),
    ]


def _rows(found: sparse.PairList) -> list[tuple[tuple[int, ...], float, str]]:
    ends, scores = found.ends.tolist(), found.scores.tolist()
    return [((i, j), score, "") for (i, j), score in zip(ends, scores, strict=True)]


def _duplicates(run: RunData, embeddings: Floats) -> PageList:
    known = np.flatnonzero(~np.isnan(embeddings).any(1))
    rows: list[tuple[tuple[int, ...], float, str]] = []
    if embeddings.shape[1] and len(known) > 1:
        shas = [run.shas[position] for position in known]
        found = findings.near_duplicates(shas, embeddings[known])
        where = known.tolist()
        for group in found.exact:
            rows += [((where[group[0]], where[p]), 1.0, "same content") for p in group[1:]]
        rows += [((where[n.image], where[n.other]), n.cosine, "") for n in found.near]
    about = "Files of the same content, then pairs whose embeddings have a cosine of 0.99 or more."
    return PageList("duplicates", "Near duplicates", about, "cosine", rows[:LISTED])
