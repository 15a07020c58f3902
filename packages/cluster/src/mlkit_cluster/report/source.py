"""What a run's database holds, as plain arrays over its images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

Record = dict[str, Any]
UNASSIGNED = -2  # label of an image that a clustering does not cover; -1 is noise
METRICS = ("hit_freq", "mean_iou", "mean_conf", "mean_conf_matched", "dice_score", "precision")
LOSSES = ("box_loss", "cls_loss", "dfl_loss", "seg_loss")
COUNTS = ("n_gt", "n_pred", "n_match")


@dataclass(frozen=True)
class Boxes:
    """Boxes of all images in a row: image at position p owns rows `starts[p]:starts[p + 1]`.

    Args:
        starts: `[N + 1]` int64.
        original_xyxy: `[G, 4]` float32, pixels of the original image.
        input_xyxy: `[G, 4]` float32, pixels of the model's square input.
        classes: `[G]` int64.
        confidences: `[G]` float32, 1 for labels.
        masks: Blobs as stored, None where there is none.
    """

    starts: npt.NDArray[np.int64]
    original_xyxy: npt.NDArray[np.float32]
    input_xyxy: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    masks: tuple[bytes | None, ...]

    def rows(self, position: int) -> range:
        """Return the rows of the image at a position."""
        return range(int(self.starts[position]), int(self.starts[position + 1]))


@dataclass(frozen=True)
class Clustering:
    """One clustering of the images.

    Args:
        name: Its id.
        params: What made it.
        labels: `[N]`, -1 noise, `UNASSIGNED` where it has no row.
        medoids: `[N]`, whether the image stands for its cluster.
        prob: `[N]`, NaN where unknown; likewise silhouette.
        silhouette: `[N]`.
    """

    name: str
    params: Record
    labels: npt.NDArray[np.int64]
    medoids: npt.NDArray[np.bool_]
    prob: npt.NDArray[np.float32]
    silhouette: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """One map of the images: `xy` `[N, 2]` float32, NaN where an image has none."""

    name: str
    params: Record
    xy: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunData:
    """A run, read: what is indexed by N follows the images without error, by `img_id`.

    Args:
        folder: The run's folder.
        metadata: The table `metadata`; JSON stays text.
        runs: Rows of the table `runs`, the detector's first.
        img_ids: `[N]` int64.
        paths: As stored, relative to `root` or absolute.
        shas: Of the files' content, None where unknown.
        root: Where relative paths begin.
        sizes: `[N, 2]` int64, width and height of the original.
        letterbox: `[N, 3]` float32: ratio, left and top padding; NaN where unknown.
        splits: Empty where unknown.
        failed: Path and error of the images that could not be read.
        columns: Name to `[N]` float32, NaN where unknown: metrics, losses, counts.
        flags: "cat" and "supercat" to `[N]` int64, -1 where unknown.
        classes: Source ("gt", "pred") to rows of position, class, count: `[K, 3]` int64.
    """

    folder: Path
    metadata: Mapping[str, str]
    runs: tuple[Record, ...]
    img_ids: npt.NDArray[np.int64]
    paths: tuple[str, ...]
    shas: tuple[str | None, ...]
    root: Path
    sizes: npt.NDArray[np.int64]
    letterbox: npt.NDArray[np.float32]
    splits: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    columns: Mapping[str, npt.NDArray[np.float32]]
    flags: Mapping[str, npt.NDArray[np.int64]]
    classes: Mapping[str, npt.NDArray[np.int64]]
    predictions: Boxes
    labels: Boxes
    clusterings: tuple[Clustering, ...]
    projections: tuple[Projection, ...]
    evaluations: tuple[Record, ...]
    encoders: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.img_ids)

    @property
    def detector(self) -> Record | None:
        """The row of `runs` whose model gave predictions and losses; None without one."""
        return next((run for run in self.runs if run["kind"] == "yolo"), None)

    @property
    def gains(self) -> dict[str, float]:
        """Component to its weight in a total, from the run, else the usual ones."""
        usual = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "seg": 7.5}
        given = (self.detector or {}).get("gains") or {}
        return {name: float(given.get(name, usual[name])) for name in usual}

    @property
    def total_loss(self) -> npt.NDArray[np.float32]:
        """`[N]` each image's loss against its labels, weighted by the gains; NaN without labels.

        Box, dfl and seg count 0 where nothing is labelled, as in the criterion.
        """
        names = [n for n in self.gains if not np.isnan(self.columns[f"{n}_loss"]).all()]
        if "cls" not in names:
            return np.full(len(self), np.nan, np.float32)
        parts = [self.gains[name] * self.columns[f"{name}_loss"] for name in names]
        total = np.nansum(np.stack(parts), axis=0)
        return np.where(np.isnan(self.columns["cls_loss"]), np.nan, total).astype(np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return _names(json.loads(self.metadata.get("names", "[]")))

    @property
    def supercategories(self) -> tuple[str, ...]:
        """The superclasses that `flags["supercat"]` counts."""
        return _names(json.loads(self.metadata.get("supercategories", "[]")))

    def file(self, position: int) -> Path:
        """Return where an image lies; it may have been moved since."""
        return self.root / self.paths[position]


def _names(given: object) -> tuple[str, ...]:
    """Return names in order, from a list or from number to name."""
    if isinstance(given, dict):
        return tuple(str(given[key]) for key in sorted(given, key=lambda key: int(key)))
    return tuple(map(str, given)) if isinstance(given, list) else ()
