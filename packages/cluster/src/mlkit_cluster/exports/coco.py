"""COCO's two files: images with their labels, and predictions with scores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.exports.chosen import chosen
from mlkit_cluster.exports.masks import instance_mask
from mlkit_cluster.report.tables import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_cluster.report.source import Boxes, RunData

    Bits = npt.NDArray[np.bool_]

Entry = dict[str, Any]
INSTANCES, RESULTS = "instances.json", "results.json"


def export_coco(
    run_folder: Path, out: Path, *, img_ids: Sequence[int] | None = None
) -> tuple[Path, Path]:
    """Write labels to `instances.json` and predictions to `results.json`; return their paths.

    Image ids are the run's `img_id`, category ids count from 1, masks are compressed run lengths.

    Args:
        run_folder: The run's folder, or its `run.db`.
        out: Folder; made.
        img_ids: Only these images.

    Raises:
        InputError: There is no run, or no such image.
    """
    run = read_run(run_folder)
    positions = [int(position) for position in chosen(run, img_ids)]
    annotations = [e for p in positions for e in _entries(run, run.labels, p, scored=False)]
    instances = {
        "info": {"description": f"mlkit cluster: {run.folder.name}"},
        "images": [_image(run, position) for position in positions],
        # From 1: COCO's evaluation reads id 0 as "none".
        "annotations": [{"id": n, **entry} for n, entry in enumerate(annotations, 1)],
        "categories": _categories(run),
    }
    results = [e for p in positions for e in _entries(run, run.predictions, p, scored=True)]
    out.mkdir(parents=True, exist_ok=True)
    for name, content in ((INSTANCES, instances), (RESULTS, results)):
        (out / name).write_text(json.dumps(content), encoding="ascii")
    return out / INSTANCES, out / RESULTS


def _image(run: RunData, position: int) -> Entry:
    width, height = map(int, run.sizes[position])
    entry = {"id": int(run.img_ids[position]), "file_name": run.paths[position]}
    return entry | {"width": width, "height": height}


def _categories(run: RunData) -> list[Entry]:
    used = np.concatenate([run.labels.classes, run.predictions.classes])
    count = max(len(run.names), int(used.max(initial=-1)) + 1)
    names = [*run.names, *(f"class {number}" for number in range(len(run.names), count))]
    return [{"id": number + 1, "name": name} for number, name in enumerate(names)]


def _entries(run: RunData, boxes: Boxes, position: int, *, scored: bool) -> list[Entry]:
    made: list[Entry] = []
    for number in boxes.rows(position):
        x1, y1, x2, y2 = boxes.original_xyxy[number].tolist()
        box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
        entry: Entry = {
            "image_id": int(run.img_ids[position]),
            "category_id": int(boxes.classes[number]) + 1,
            "bbox": box,
        }
        mask = instance_mask(run, boxes, position, number)
        if mask is not None:
            entry["segmentation"] = _rle(mask)
        if scored:
            entry["score"] = float(str(boxes.confidences[number]))
        else:
            area = round(box[2] * box[3], 3) if mask is None else int(mask.sum())
            entry |= {"area": area, "iscrowd": 0}
        made.append(entry)
    return made


def _rle(mask: Bits) -> Entry:
    """Return COCO's compressed run lengths."""
    from pycocotools import mask as coco

    rle: Entry = dict(coco.encode(np.asfortranarray(mask, np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
