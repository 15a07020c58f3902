"""Predictions as files: COCO JSON, mask images, overlays."""

from __future__ import annotations

import json
from functools import singledispatch
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mlkit_core.errors import InputError
from mlkit_core.report.pictures import file_stem, original_image, overlay
from mlkit_core.types import BoxPrediction, MaskPrediction, Prediction, TrackPrediction

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_core.types import Batch

Entry = dict[str, Any]


def uncompressed_rle(mask: npt.NDArray[np.bool_]) -> Entry:
    """Return COCO's uncompressed run lengths of a mask `[H, W]`: column by column, zeros first."""
    flat = mask.flatten(order="F")
    counts = [len(list(run)) for _, run in groupby(flat.tolist())]
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


@singledispatch
def coco_entries(prediction: Prediction) -> list[Entry]:
    """Return a prediction's COCO annotations, without ids."""
    raise InputError(f"predictions: no file form for {type(prediction).__name__}")


@coco_entries.register(MaskPrediction)
def _(prediction: MaskPrediction) -> list[Entry]:
    probabilities = prediction.probabilities.detach().float().cpu().numpy()
    if probabilities.ndim == 2:
        masks = [(1, probabilities > 0.5, probabilities)]
    else:
        best = probabilities.argmax(0)
        masks = [(c, best == c, probabilities[c]) for c in range(1, len(probabilities))]
    entries: list[Entry] = []
    for category, mask, confidence in masks:
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        entries.append(
            {
                "category_id": category,
                "segmentation": uncompressed_rle(mask),
                "bbox": [int(v) for v in box],
                "area": int(mask.sum()),
                "score": round(float(confidence[mask].mean()), 5),
            }
        )
    return entries


@coco_entries.register(BoxPrediction)
def _(prediction: BoxPrediction) -> list[Entry]:
    boxes, scores = prediction.boxes_xyxy.tolist(), prediction.scores.tolist()
    return [
        {
            "category_id": label + 1,
            "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
            "area": round((x1 - x0) * (y1 - y0), 3),
            "score": round(score, 5),
        }
        for (x0, y0, x1, y1), score, label in zip(
            boxes, scores, prediction.labels.tolist(), strict=True
        )
    ]


class PredictionWriter:
    """Writes overlays as items come, and one JSON at the end.

    COCO form for images; for tracks, YouTube-VIS result entries (`video_id`, `segmentations`).

    Args:
        out: Folder; made.
        classes: Names; category ids count from 1.
    """

    def __init__(self, out: Path, classes: tuple[str, ...]) -> None:
        self._out, self._classes = out, classes
        self._images: list[Entry] = []
        self._annotations: list[Entry] = []
        self._tracks: list[Entry] = []
        self._categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        self._written: list[Path] = []
        self._items = 0
        out.mkdir(parents=True, exist_ok=True)

    def add(self, batch: Batch, predictions: list[Prediction]) -> None:
        """Add one item: its images, or its video."""
        tracks = [p for p in predictions if isinstance(p, TrackPrediction)]
        self._items += 1
        if tracks:
            self._add_tracks(batch, tracks)
            return
        for row, prediction in enumerate(predictions):
            meta = batch.meta[row]
            number = len(self._images) + 1
            height, width = meta.size or (None, None)
            image: Entry = {"id": number, "file_name": meta.path or meta.key, "key": meta.key}
            self._images.append({**image, "height": height, "width": width, **dict(meta.extra)})
            if isinstance(prediction, MaskPrediction) and prediction.probabilities.ndim == 3:
                # A label map's classes begin with the background, which is no category.
                self._categories = [
                    {"id": i, "name": name} for i, name in enumerate(self._classes) if i > 0
                ]
            for entry in coco_entries(prediction):
                identity = {"id": len(self._annotations) + 1, "image_id": number}
                self._annotations.append(identity | entry)
            self._draw(batch, row, prediction, f"{number:05d}-{file_stem(meta.key)}")

    def _add_tracks(self, batch: Batch, tracks: list[TrackPrediction]) -> None:
        for track in tracks:
            entry = {"category_id": track.label + 1, "score": track.score}
            self._tracks.append(
                {"video_id": batch.meta[0].key, **entry, "segmentations": track.rles}
            )
        write = getattr(tracks[0], "write_item", None)
        if write is not None:
            stem = f"{self._items:05d}-{file_stem(batch.meta[0].key)}"
            self._written += write(tracks, batch, self._out, stem, self._classes)

    def _draw(self, batch: Batch, row: int, prediction: Prediction, stem: str) -> None:
        if isinstance(prediction, MaskPrediction):
            probabilities = prediction.probabilities.detach().float().cpu()
            binary = probabilities.ndim == 2
            classes = probabilities > 0.5 if binary else probabilities.argmax(0)
            pixels = classes.numpy().astype(np.uint8) * np.uint8(255 if binary else 1)
            self._save(Image.fromarray(pixels), f"{stem}-mask.png")
        image = original_image(batch, row)
        if image is not None:
            self._save(
                Image.fromarray(overlay(prediction, image, batch, row)), f"{stem}-overlay.png"
            )

    def _save(self, image: Image.Image, name: str) -> None:
        image.save(self._out / name)
        self._written.append(self._out / name)

    def close(self) -> list[Path]:
        """Write `predictions.json`; return every file written, the JSON first.

        Raises:
            InputError: There was nothing to predict.
        """
        if not self._items:
            raise InputError(f"{self._out}: nothing to predict in the given inputs")
        record: Any = {
            "images": self._images,
            "categories": self._categories,
            "annotations": self._annotations,
        }
        if not self._images:
            record = self._tracks
        target = self._out / "predictions.json"
        aside = target.with_name(".predictions.json.part")
        aside.write_text(json.dumps(record) + "\n", encoding="utf-8")
        aside.replace(target)
        return [target, *self._written]
