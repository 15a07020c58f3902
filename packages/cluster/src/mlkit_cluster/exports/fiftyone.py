"""A folder that FiftyOne imports as it is; FiftyOne itself is not needed to write it.

`metadata.json` names no version: FiftyOne then reads `samples.json` as samples in its own JSON
form, which every release since 0.8 does, and needs no internals of its database. Checked with
1.22.1. Images stay where they are; their paths are absolute.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.exports.chosen import chosen, field_name, measured, measures
from mlkit_cluster.exports.masks import instance_mask
from mlkit_cluster.report.source import UNASSIGNED
from mlkit_cluster.report.tables import read_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_cluster.exports.masks import Bits
    from mlkit_cluster.report.source import Boxes, RunData

Entry = dict[str, Any]


def export_fiftyone(
    run_folder: Path, out_dir: Path, *, img_ids: Sequence[int] | None = None
) -> Path:
    """Write `metadata.json` and `samples.json` into a folder; return the folder.

    Load it with `fiftyone.Dataset.from_dir(out_dir, dataset_type=fiftyone.types.FiftyOneDataset)`.
    Samples have `predictions` and `ground_truth`, losses and metrics, `category`, `supercategory`,
    `cluster_<name>` ("noise" for -1), `<projection>_x` and `_y`; what is unknown is left out.

    Args:
        run_folder: The run's folder, or its `run.db`.
        out_dir: Folder; made.
        img_ids: Only these images.

    Raises:
        InputError: There is no run, or no such image.
    """
    run = read_run(run_folder)
    columns = measures(run)
    samples = [_sample(run, int(position), columns) for position in chosen(run, img_ids)]
    metadata = {
        "media_type": "image",
        "default_classes": list(run.names),
        "info": {"source": "mlkit cluster", "run": run.folder.name, "classes": list(run.names)},
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "metadata.json").write_text(json.dumps(metadata), encoding="ascii")
    (out_dir / "samples.json").write_text(json.dumps({"samples": samples}), encoding="ascii")
    return out_dir


def _sample(run: RunData, position: int, columns: Mapping[str, npt.NDArray[np.float32]]) -> Entry:
    width, height = map(int, run.sizes[position])
    split = run.splits[position]
    known = {name: measured(values, name, position) for name, values in columns.items()}
    return {
        "filepath": os.path.abspath(run.file(position)),  # noqa: PTH100  # links are kept
        "tags": [split] if split else [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        "img_id": int(run.img_ids[position]),
        **{name: value for name, value in known.items() if value is not None},
        **_labels(run, position),
        **_places(run, position),
    }


def _labels(run: RunData, position: int) -> Entry:
    """Return detections, classes and clusters of one image."""
    made: Entry = {"predictions": _detections(run, run.predictions, position, scored=True)}
    if len(run.labels.classes):
        made["ground_truth"] = _detections(run, run.labels, position, scored=False)
    for field, flag, names in (
        ("category", "cat", run.names),
        ("supercategory", "supercat", run.supercategories),
    ):
        label = int(run.flags[flag][position])
        if label >= 0:
            made[field] = _classification(names[label] if label < len(names) else str(label))
    for clustering in run.clusterings:
        label = int(clustering.labels[position])
        if label != UNASSIGNED:
            entry = _classification("noise" if label < 0 else str(label))
            sure = measured(clustering.prob, "", position)
            entry |= {} if sure is None else {"confidence": sure}
            made[f"cluster_{field_name(clustering.name)}"] = entry
    return made


def _classification(label: str) -> Entry:
    return {"_cls": "Classification", "tags": [], "label": label}


def _detections(run: RunData, boxes: Boxes, position: int, *, scored: bool) -> Entry:
    """Return detections with boxes as left, top, width, height over the image's own sides."""
    width, height = (max(float(side), 1.0) for side in run.sizes[position])
    found: list[Entry] = []
    for number in boxes.rows(position):
        x1, y1, x2, y2 = boxes.original_xyxy[number].tolist()
        label = int(boxes.classes[number])
        entry: Entry = {
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": run.names[label] if label < len(run.names) else str(label),
            "bounding_box": [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        }
        mask = instance_mask(run, boxes, position, number)
        if mask is not None:
            entry |= _mask(mask, (x1, y1, x2, y2))
        if scored:
            entry["confidence"] = float(str(boxes.confidences[number]))
        found.append(entry)
    return {"_cls": "Detections", "detections": found}


def _mask(mask: Bits, box_xyxy: tuple[float, float, float, float]) -> Entry:
    """Return the mask within its box as FiftyOne's text form: npy, zlib, base64."""
    x1, y1 = (max(math.floor(value), 0) for value in box_xyxy[:2])
    x2, y2 = (math.ceil(value) for value in box_xyxy[2:])
    inside = mask[y1:y2, x1:x2]
    if not inside.size:
        return {}
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(inside))
    return {"mask": base64.b64encode(zlib.compress(buffer.getvalue())).decode()}


def _places(run: RunData, position: int) -> Entry:
    made: Entry = {}
    for projection in run.projections:
        for axis, values in zip("xy", projection.xy.T, strict=True):
            place = measured(values, "", position)
            if place is not None:
                made[f"{field_name(projection.name)}_{axis}"] = place
    return made
