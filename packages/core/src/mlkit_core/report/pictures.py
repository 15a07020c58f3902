"""Overlays: what a prediction looks like on its image."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import shutil
from functools import singledispatch
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from mlkit_core.types import BoxPrediction, MaskPrediction, MaskTarget, Prediction

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_core.types import Batch, SampleMeta

    Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB

# Okabe and Ito's colours, told apart by colour-blind readers too.
HIT, FALSE, MISSED = (0, 158, 115), (213, 94, 0), (86, 180, 233)


def file_stem(key: str) -> str:
    """Return a file name for a key from data: no separators, nothing hidden, 80 characters."""
    return re.sub(r"[^\w.-]+", "_", key).strip("._")[:80] or "item"


def original_image(batch: Batch, row: int) -> Picture | None:
    """Return a row's image in original pixels, from the batch's first image input."""
    meta = batch.meta[row]
    for rows in batch.inputs.values():
        if rows.ndim == 4 and rows.shape[1] == 3 and meta.size is not None:
            scaled = (rows[row].clamp(0, 1) * 255).round().to("cpu", torch.uint8)
            pixels = np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())  # [h, w, 3]
            return _to_original(pixels, meta, Image.Resampling.BILINEAR)
    return None


def _to_original(
    pixels: npt.NDArray[np.uint8], meta: SampleMeta, how: Image.Resampling
) -> npt.NDArray[np.uint8]:
    if meta.letterbox is not None:
        pixels = pixels[meta.letterbox.content]
    if meta.size is None or pixels.shape[:2] == meta.size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((meta.size[1], meta.size[0]), how))


def _true_mask(batch: Batch, row: int) -> npt.NDArray[np.bool_] | None:
    if not isinstance(batch.target, MaskTarget):
        return None
    mask = (batch.target.masks[row] > 0).to("cpu", torch.uint8).numpy() * np.uint8(255)
    return _to_original(mask, batch.meta[row], Image.Resampling.NEAREST) > 127


@singledispatch
def overlay(prediction: Prediction, image: Picture, batch: Batch, row: int) -> Picture:
    """Return the image with a prediction drawn on it; unknown kinds leave it as it is."""
    return image


@overlay.register(MaskPrediction)
def _(prediction: MaskPrediction, image: Picture, batch: Batch, row: int) -> Picture:
    probabilities = prediction.probabilities.detach().float().cpu()
    found = (
        probabilities > 0.5 if probabilities.ndim == 2 else probabilities.argmax(0) > 0
    ).numpy()
    true = _true_mask(batch, row)
    picture = image.astype(np.float32)
    layers = (
        [(found, HIT)]
        if true is None
        else [(found & true, HIT), (found & ~true, FALSE), (~found & true, MISSED)]
    )
    for mask, colour in layers:
        picture[mask] = 0.35 * picture[mask] + 0.65 * np.asarray(colour, np.float32)
    return picture.round().astype(np.uint8)


@overlay.register(BoxPrediction)
def _(prediction: BoxPrediction, image: Picture, batch: Batch, row: int) -> Picture:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for box, score in zip(prediction.boxes_xyxy.tolist(), prediction.scores.tolist(), strict=True):
        draw.rectangle(box, outline=HIT, width=2)
        draw.text((box[0] + 2, box[1] + 2), f"{score:.2f}", fill=HIT)
    return np.asarray(canvas)


def _picture(batch: Batch, row: int, predictions: list[Prediction]) -> Picture | None:
    """Return image and overlay side by side, or the item as its predictions draw it."""
    draw = getattr(predictions[row], "draw_item", None)
    if draw is not None:
        return draw(predictions, batch)
    image = original_image(batch, row)
    if image is None:
        return None
    return np.concatenate([image, overlay(predictions[row], image, batch, row)], axis=1)


class PictureBook:
    """Keeps a fixed sample of overlays: those whose keys have the smallest hashes.

    Args:
        folder: Emptied and filled by `close`.
        limit: Pictures kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._kept: list[tuple[int, int, Picture, str, str]] = []
        self._count = 0

    def add(self, batch: Batch, predictions: list[Prediction]) -> None:
        """Draw those rows of an item that belong to the sample."""
        for row, meta in enumerate(batch.meta[: len(predictions)]):
            rank = -int.from_bytes(hashlib.blake2b(meta.key.encode(), digest_size=7).digest())
            if len(self._kept) >= self._limit and (not self._limit or rank <= self._kept[0][0]):
                continue
            picture = _picture(batch, row, predictions)
            if picture is None:
                continue
            self._count += 1
            caption = ", ".join(f"{k} {v}" for k, v in meta.extra.items())
            heapq.heappush(self._kept, (rank, self._count, picture, meta.key, caption))
            if len(self._kept) > self._limit:
                heapq.heappop(self._kept)

    def close(self) -> list[Path]:
        """Write the pictures and `index.json` with their keys and captions."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._kept:
            return []
        self._folder.mkdir(parents=True)
        index: list[dict[str, str]] = []
        for number, (_, _, picture, key, caption) in enumerate(
            sorted(self._kept, key=lambda k: k[3])
        ):
            name = f"{number:03d}-{file_stem(key)}.png"
            Image.fromarray(picture).save(self._folder / name)
            index.append({"file": name, "key": key, "caption": caption})
        (self._folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
        return [self._folder / entry["file"] for entry in index]
