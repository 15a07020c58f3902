"""Extraction as tasks: a chunk of images in, their records out; one chunk is one transaction."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit_core.build import build_data, build_part
from mlkit_core.errors import DataError
from mlkit_core.types import Draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.config.frame import Part
    from mlkit_core.interfaces import Data, Extractor
    from mlkit_core.types import ImageRecord

_log = logging.getLogger("mlkit.cluster")


@dataclass(frozen=True)
class Item:
    """One image: its id in the run, its place in the data, its path from the data's root."""

    img_id: int
    index: int
    path: str


Chunk = tuple[Item, ...]


@dataclass(frozen=True)
class Unreadable:
    """An image that gave no record, and why."""

    error: str


Found = tuple[Item, "ImageRecord | Unreadable"]


@dataclass(frozen=True)
class ExtractRecipe:
    """The data and the extractor of a run file."""

    data: Part
    extractor: Part

    def build(self) -> ExtractWorker:
        """Return a worker with data and extractor built."""
        return ExtractWorker(build_data(self.data), build_part(self.extractor, "extractor"))


class ExtractWorker:
    """Reads chunks of images and extracts them; an unreadable file fails alone.

    Args:
        data: Knows where images and labels are.
        extractor: Reads out its model.
    """

    def __init__(self, data: Data, extractor: Extractor) -> None:
        self.data, self.extractor = data, extractor
        needs = getattr(extractor, "needs", None)
        if needs is not None:
            data.bind({"image": needs})

    def prepare(self, chunk: Chunk) -> list[Any]:
        """Return each item's sample, or `Unreadable`."""
        samples: list[Any] = []
        for item in chunk:
            try:
                samples.append(self.data.load(Draw(item.index, 0)))
            except DataError as err:
                samples.append(Unreadable(str(err)))
        return samples

    def run(self, chunk: Chunk, samples: Sequence[Any]) -> list[Found]:
        """Return each item with its record, in order."""
        start = time.perf_counter()
        readable = [sample for sample in samples if not isinstance(sample, Unreadable)]
        batches = self.data.collate([[sample] for sample in readable]) if readable else []
        records = iter(list(self.extractor.extract(batches)))
        found: list[Found] = [
            (item, sample if isinstance(sample, Unreadable) else next(records))
            for item, sample in zip(chunk, samples, strict=True)
        ]
        took = time.perf_counter() - start
        _log.debug("images %d to %d: %.2f s", chunk[0].img_id, chunk[-1].img_id, took)
        return found


def chunks_of(items: Sequence[Item], size: int) -> list[Chunk]:
    """Return the items in chunks by their ids, so that a resumed run makes the same chunks."""
    found: dict[int, list[Item]] = {}
    for item in items:
        found.setdefault(item.img_id // size, []).append(item)
    return [tuple(chunk) for chunk in found.values()]
