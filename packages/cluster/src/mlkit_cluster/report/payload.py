"""What the page is told about a run: plain values and packed arrays, no picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.report.lists import image_lists, pair_lists
from mlkit_cluster.report.measured import measured
from mlkit_cluster.report.packing import pack, pack_half, plain
from mlkit_cluster.report.pairs import Pairs, nearest, read_pairs
from mlkit_cluster.report.sheets import sheets
from mlkit_cluster.report.source import COUNTS, LOSSES, METRICS, RunData
from mlkit_cluster.report.tables import read_embeddings

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlkit_cluster.report.lists import PageList
    from mlkit_cluster.report.sheets import Sheet
    from mlkit_cluster.report.source import Boxes, Clustering

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

Json = dict[str, Any]
WHOLE_MATRIX = 700  # images up to which every pair's losses are in the page
SAMPLED = 500  # side of the matrix beyond it
NEIGHBOURS = 10
_MAX_BOXES = 100  # drawn on one image, the surest first
_LABELS = {
    "hit_freq": "recall at IoU 0.5",
    "mean_iou": "mean IoU of matches",
    "mean_conf": "mean confidence",
    "mean_conf_matched": "mean confidence of matches",
    "dice_score": "mean Dice of matches",
    "precision": "precision at IoU 0.5",
    "n_gt": "labelled objects",
    "n_pred": "predicted objects",
    "n_match": "matched objects",
}


@dataclass(frozen=True)
class Payload:
    """The page's data, and the positions of images that deserve a larger picture."""

    data: Json
    featured: frozenset[int]


def build_payload(run: RunData) -> Payload:
    """Return everything that the page shows of a run."""
    pairs, embeddings = read_pairs(run), _embeddings(run)
    near = nearest(run, pairs, NEIGHBOURS)
    images, twins = image_lists(run), pair_lists(run, pairs, embeddings)
    by_clustering = {c.name: sheets(run, pairs, embeddings, c) for c in run.clusterings}
    data: Json = {
        **_images(run),
        "columns": _columns(run),
        "classes": {s: pack(rows, "i4") for s, rows in run.classes.items() if len(rows)},
        "boxes": _all_boxes(run),
        "clusterings": [_clustering(c) for c in run.clusterings],
        "firstClustering": _first(run),
        "projections": _projections(run, embeddings),
        "pairs": _pairs(run, pairs, near, twins),
        "near": pack(near, "i4"),
        "neighbours": NEIGHBOURS,
        "lists": [_list(made) for made in (*twins, *images)],
        "sheets": {name: [_sheet(s) for s in made] for name, made in by_clustering.items()},
        "measured": measured(run, pairs),
    }
    featured = {p for made in (*images, *twins) for ends, _, _ in made.rows for p in ends}
    featured |= {p for made in by_clustering.values() for s in made for p in (s.medoid, *s.members)}
    return Payload(plain(data), frozenset(featured))  # pyright: ignore[reportArgumentType]  # a dict


def _images(run: RunData) -> Json:
    """Return what the images are, without measures."""
    return {
        "n": len(run),
        "root": str(run.root),
        "paths": list(run.paths),
        "splits": list(run.splits) if any(run.splits) else None,
        "ids": pack(run.img_ids, "i4"),
        "sizes": pack(run.sizes, "i4"),
        "letterbox": pack(run.letterbox, "f4"),
        "names": list(run.names),
        "supernames": list(run.supercategories),
        "flags": {name: pack(values, "i4") for name, values in run.flags.items()},
    }


def _embeddings(run: RunData) -> Floats:
    """Return the detector's embeddings, else those of the first encoder, else `[N, 0]`."""
    if not run.encoders:
        return np.zeros((len(run), 0), np.float32)
    encoder = "yolo" if "yolo" in run.encoders else run.encoders[0]
    return read_embeddings(run.folder, run.img_ids, encoder)


def _columns(run: RunData) -> list[Json]:
    """Return each measure that is known of any image: key, label, group, values."""
    total = ("total_loss", "total loss", "loss", run.total_loss)
    made = [total]
    made += [(n, n.replace("_", " "), "loss", run.columns[n]) for n in LOSSES]
    made += [(name, _LABELS[name], "metric", run.columns[name]) for name in METRICS]
    made += [(name, _LABELS[name], "count", run.columns[name]) for name in COUNTS]
    return [
        {"key": key, "label": label, "group": group, "values": pack(values, "f4")}
        for key, label, group, values in made
        if not np.isnan(values).all()
    ]


def _all_boxes(run: RunData) -> Json:
    side = (run.detector or {}).get("imgsz") or 0
    made: Json = {"side": side, "targetConf": (run.detector or {}).get("target_conf")}
    if side:
        made["pred"] = _boxes(run.predictions, side)
        made["gt"] = _boxes(run.labels, side) if len(run.labels.classes) else None
    return made


def _boxes(boxes: Boxes, side: int) -> Json:
    """Return boxes in units of the input's side over 65535, at most `_MAX_BOXES` an image."""
    order = np.lexsort([-boxes.confidences, _owners(boxes)])
    counts = np.diff(boxes.starts)
    rank = np.arange(len(order)) - np.repeat(boxes.starts[:-1], counts)
    rows = order[rank < _MAX_BOXES]
    starts = np.concatenate([[0], np.cumsum(np.minimum(counts, _MAX_BOXES))])
    unit = np.clip(np.nan_to_num(boxes.input_xyxy[rows]) / side, 0, 1)
    return {
        "starts": pack(starts, "i4"),
        "xyxy": pack(np.rint(unit * 65535), "u2"),
        "classes": pack(np.clip(boxes.classes[rows], 0, 65535), "u2"),
        "conf": pack(np.rint(np.clip(boxes.confidences[rows], 0, 1) * 65535), "u2"),
        "cut": int((counts > _MAX_BOXES).sum()),
    }


def _owners(boxes: Boxes) -> Ints:
    return np.repeat(np.arange(len(boxes.starts) - 1), np.diff(boxes.starts))


def _clustering(clustering: Clustering) -> Json:
    return {
        "id": clustering.name,
        "label": _cluster_title(clustering),
        "labels": pack(clustering.labels, "i4"),
        "prob": pack(clustering.prob, "f4"),
        "silhouette": pack(clustering.silhouette, "f4"),
    }


def _cluster_title(clustering: Clustering) -> str:
    """Return the name, how many clusters there are and how much is noise."""
    labels = clustering.labels
    count = len(np.unique(labels[labels >= 0]))
    noise = int((labels == -1).sum())
    words = f"{clustering.name}: {count} cluster{'' if count == 1 else 's'}"
    return f"{words}, {round(100 * noise / len(labels))} % noise" if noise else words


def _projections(run: RunData, embeddings: Floats) -> list[Json]:
    """Return the stored maps; where there are less than two, the embeddings' main directions."""
    made = [(p.name, p.name, p.xy) for p in run.projections]
    if len(made) < 2:
        made.append(("pca", "PCA of the embeddings (this report)", principal_plane(embeddings)))
    return [
        {"id": name, "label": label, "x": pack(xy[:, 0], "f4"), "y": pack(xy[:, 1], "f4")}
        for name, label, xy in made
    ]


def principal_plane(embeddings: Floats) -> Floats:
    """Return `[N, 2]` along the two directions of greatest variance, the signs fixed.

    Rows with NaN stay NaN; directions that do not exist (one image, equal images) are 0.
    """
    xy = np.zeros((len(embeddings), 2), np.float32)
    if not embeddings.shape[1]:
        return xy
    known = np.isfinite(embeddings).all(1)
    xy[~known] = np.nan
    centred = embeddings[known].astype(np.float64)
    if len(centred):
        centred -= centred.mean(0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        axes = vectors[:, ::-1][:, :2]
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        xy[known, : axes.shape[1]] = centred @ axes
    return xy


def _pairs(run: RunData, pairs: Pairs, near: Ints, lists: list[PageList]) -> Json | None:
    """Return the losses of all pairs of few images, or of a sample and of the pairs listed."""
    if not pairs:
        return None
    made: Json = {"components": list(pairs.components), "gains": run.gains, "full": pairs.is_full}
    some = np.arange(len(run))
    if len(run) > WHOLE_MATRIX:
        i, j = _listed(near, lists)
        both = pairs.at(i, j), pairs.at(j, i), pairs.at(i, i), pairs.at(j, j)
        values = np.stack(both, 1)  # [K, 4, C]
        made["table"] = {"i": pack(i, "i4"), "j": pack(j, "i4"), "values": pack(values, "f4")}
        some = _sample(run) if pairs.is_full else some[:0]
    if len(some):
        values = pairs.submatrix(some)
        made["matrix"] = {
            "positions": pack(some, "i4"),
            "values": [pack_half(values[:, :, c]) for c in range(values.shape[2])],
        }
    return made


def _listed(near: Ints, lists: list[PageList]) -> tuple[Ints, Ints]:
    """Return the pairs of neighbours and of the lists, each unordered pair once."""
    ends = [np.stack([np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()], 1)]
    ends += [np.array([e for e, _, _ in made.rows], np.int64).reshape(-1, 2) for made in lists]
    joined = np.concatenate(ends)
    unique = np.unique(np.sort(joined[(joined >= 0).all(1)], axis=1), axis=0)
    return unique[:, 0], unique[:, 1]


def _first(run: RunData) -> int:
    """Return the number of the first clustering that found clusters, else 0."""
    found = (
        n for n, c in enumerate(run.clusterings) if len(np.unique(c.labels[c.labels >= 0])) > 1
    )
    return next(found, 0)


def _sample(run: RunData) -> Ints:
    """Return `SAMPLED` positions spread evenly over the clusters that are shown first."""
    none = np.zeros(len(run), np.int64)
    labels = run.clusterings[_first(run)].labels if run.clusterings else none
    order = np.argsort(labels, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, SAMPLED).astype(np.int64)]
    return np.unique(chosen)


def _list(made: PageList) -> Json:
    rows = [[*ends, number, words] for ends, number, words in made.rows]
    return {
        "key": made.key,
        "title": made.title,
        "about": made.about,
        "score": made.score,
        "ends": len(made.rows[0][0]),
        "rows": rows,
    }


def _sheet(sheet: Sheet) -> Json:
    return {
        "label": sheet.label,
        "size": sheet.size,
        "medoid": sheet.medoid,
        "members": list(sheet.members),
        "profile": dict(sheet.profile),
        "within": dict(sheet.within),
    }
